"""Mirostat: keeps the surprise of the text near a target, whatever the model.

In: sorted candidates and `mu`, the most surprise allowed in bits. Out: truncated candidates, and
after the draw the next `mu`. Source: Basu et al., "Mirostat: A Neural Text Decoding Algorithm that
Directly Controls Perplexity" (2021), as written in llama.cpp.
"""

from __future__ import annotations

import math

import numpy as np

from libertai_engine.sampling.candidates import Candidates, Numbers
from libertai_engine.sampling.transforms import Counts, keep_first, probabilities

ESTIMATED = 100  # candidates the Zipf exponent is estimated from
MOST = 1e300  # bits that `mu` or a change of it may have: infinities would meet as NaN


def mirostat_1(candidates: Candidates, mu: Numbers, min_keep: Counts) -> Candidates:
    """Keep the `k` best, `k` from the estimated Zipf exponent of the distribution.

    The candidates have to be those of the whole vocabulary; `mu` is `[rows, 1]`.
    """
    whole = candidates.whole
    size = candidates.logits.shape[-1] if whole is None else whole.size
    return keep_first(candidates, zipf_count(candidates.logits, mu, size))


def zipf_count(logits: Numbers, mu: Numbers, size: Numbers | int) -> Numbers:
    """How many of `size` tokens the first version keeps: `[rows, 1]`, at least 1.

    `logits` `[rows, k]` are the best ones, of which it looks at no more than `ESTIMATED`.
    """
    with np.errstate(all="ignore"):  # NaN means one candidate, and infinity all of them
        exponent = _zipf_exponent(logits)
        epsilon = exponent - 1
        # epsilon / (1 - vocab^-epsilon), which tends to 1 / log(vocab) for epsilon -> 0
        curved = epsilon / -np.expm1(-epsilon * np.log(size))
        ratio = np.where(np.abs(epsilon) < 1e-12, 1 / np.log(size), curved)
        k = (ratio * np.exp2(mu)) ** (1 / exponent)
    count: Numbers = np.maximum(np.floor(np.nan_to_num(k, nan=1.0, posinf=np.inf)), 1)
    return count


def mirostat_2(candidates: Candidates, mu: Numbers, min_keep: Counts) -> Candidates:
    """Keep the tokens whose surprise is at most `mu` `[rows, 1]` bits, the best one always."""
    with np.errstate(divide="ignore"):
        surprise = -np.log2(probabilities(candidates))
    return keep_first(candidates, np.maximum((surprise <= mu).sum(axis=-1, keepdims=True), 1))


def first_mu(tau: float) -> float:
    """`mu` for the first token: twice the target."""
    return _limited(2 * tau)


def next_mu(mu: float, *, tau: float, eta: float, probability: float) -> float:
    """`mu` after a token of this probability (among the candidates kept) was drawn.

    It is a finite number, however extreme the settings are.
    """
    return _limited(mu - _limited(eta * (-math.log2(probability) - tau)))


def _limited(bits: float) -> float:
    return max(-MOST, min(bits, MOST))


def _zipf_exponent(logits: Numbers) -> Numbers:
    """Least squares slope of log probability over log rank, `[rows, 1]`; NaN for one candidate.

    With `t_i = ln((i + 2) / (i + 1))` and `b_i = ln(p_i / p_{i+1})`, a difference of logits:
    `sum t_i b_i / sum t_i^2`.
    """
    head = logits[:, :ESTIMATED]
    if head.shape[-1] == 1:
        return np.full((len(head), 1), np.nan)
    steps = np.arange(head.shape[-1] - 1, dtype=np.float64)
    t = np.log((steps + 2) / (steps + 1))
    is_pair = head[:, 1:] > -np.inf
    b = np.where(is_pair, head[:, :-1] - head[:, 1:], 0.0)
    above = (t * b).cumsum(axis=-1)[:, -1:]
    below = np.where(is_pair, t * t, 0.0).cumsum(axis=-1)[:, -1:]
    slope: Numbers = above / below
    return slope
