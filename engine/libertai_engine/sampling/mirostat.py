"""Mirostat: keeps the surprise of the text near a target, whatever the model.

In: sorted candidates and `mu`, the most surprise allowed in bits. Out: truncated candidates, and
after the draw the next `mu`. Source: Basu et al., "Mirostat: A Neural Text Decoding Algorithm that
Directly Controls Perplexity" (2021), as written in llama.cpp.
"""

from __future__ import annotations

import math

import torch

from libertai_engine.sampling.candidates import Candidates
from libertai_engine.sampling.transforms import keep_first, probabilities

ESTIMATED = 100  # candidates the Zipf exponent is estimated from


def mirostat_1(candidates: Candidates, mu: torch.Tensor, _min_keep: torch.Tensor) -> Candidates:
    """Keep the `k` best, `k` from the estimated Zipf exponent of the distribution.

    The candidates have to be those of the whole vocabulary; `mu` is `[rows, 1]`.
    """
    exponent = _zipf_exponent(candidates.logits)
    size = math.log(candidates.logits.shape[-1])
    epsilon = exponent - 1
    # epsilon / (1 - vocab^-epsilon), which tends to 1 / log(vocab) for epsilon -> 0
    curved = epsilon / -torch.expm1(-epsilon * size)
    ratio = torch.where(epsilon.abs() < 1e-12, torch.full_like(epsilon, 1 / size), curved)
    k = (ratio * torch.exp2(mu)) ** (1 / exponent)
    return keep_first(candidates, k.nan_to_num(nan=1.0).floor().clamp_min(1))


def mirostat_2(candidates: Candidates, mu: torch.Tensor, _min_keep: torch.Tensor) -> Candidates:
    """Keep the tokens whose surprise is at most `mu` `[rows, 1]` bits, the best one always."""
    surprise = -probabilities(candidates.logits).log2()
    return keep_first(candidates, (surprise <= mu).sum(dim=-1, keepdim=True).clamp_min(1))


def next_mu(mu: float, *, tau: float, eta: float, probability: float) -> float:
    """`mu` after a token of this probability (among the candidates kept) was drawn."""
    return mu - eta * (-math.log2(probability) - tau)


def _zipf_exponent(logits: torch.Tensor) -> torch.Tensor:
    """Least squares slope of log probability over log rank, `[rows, 1]`; NaN for one candidate.

    With `t_i = ln((i + 2) / (i + 1))` and `b_i = ln(p_i / p_{i+1})`, a difference of logits:
    `sum t_i b_i / sum t_i^2`.
    """
    head = logits[:, :ESTIMATED]
    steps = torch.arange(head.shape[-1] - 1, dtype=torch.float64)
    t = ((steps + 2) / (steps + 1)).log()
    is_pair = head[:, 1:] > -torch.inf
    b = torch.where(is_pair, head[:, :-1] - head[:, 1:], 0.0)
    above = (t * b).cumsum(dim=-1)[:, -1:]
    below = torch.where(is_pair, t * t, 0.0).cumsum(dim=-1)[:, -1:]
    return above / below
