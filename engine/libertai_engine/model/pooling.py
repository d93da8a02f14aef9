"""One vector for each row: pooling over its tokens, and the length of vectors. Pure functions.

In: hidden states of rows that are padded on the right. Out: vectors. The formulas are those of
sentence-transformers' `Pooling` and of llama.cpp's `common_embd_normalize`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

INT16_SPAN = 32760.0  # what llama.cpp scales the largest number to

Pool = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _cls(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return states[:, 0]


def _last(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return states[torch.arange(len(states), device=states.device), lengths - 1]


def _max(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return states.masked_fill(~_is_token(states, lengths), -torch.inf).amax(1)


def _mean(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return _sum(states, lengths) / lengths[:, None]


def _mean_sqrt(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return _sum(states, lengths) / lengths[:, None].sqrt()


def _weighted_mean(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The n-th token counts n times: later ones of a causal model have seen more."""
    weights = torch.arange(1, states.shape[1] + 1, device=states.device, dtype=states.dtype)
    weights = weights[None, :, None] * _is_token(states, lengths)  # [rows, positions, 1]
    return (states * weights).sum(1) / weights.sum(1)


def _sum(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return (states * _is_token(states, lengths)).sum(1)


def _is_token(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """`[rows, positions, 1]`, False where a row is only padded."""
    positions = torch.arange(states.shape[1], device=states.device)
    return (positions[None, :] < lengths[:, None])[:, :, None]


POOLINGS: Mapping[str, Pool] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


def pool(states: torch.Tensor, lengths: torch.Tensor, modes: Sequence[str]) -> torch.Tensor:
    """Pool hidden states `[rows, positions, hidden]` of `lengths` `[rows]` tokens each.

    Returns `[rows, hidden * len(modes)]` in float32: the poolings of `modes`, side by side.
    """
    states = states.float()
    return torch.cat([POOLINGS[mode](states, lengths) for mode in modes], dim=-1)


def normalize(vectors: torch.Tensor, kind: int) -> torch.Tensor:
    """Vectors `[rows, n]` scaled as llama.cpp's `embd_normalize` says.

    -1: not at all; 0: the largest number becomes 32760; p: the p-norm becomes 1 (2: Euclid's).
    A vector of zeros stays one.
    """
    if kind == -1:
        return vectors
    if kind == 0:
        size = vectors.abs().amax(-1, keepdim=True) / INT16_SPAN
    else:
        # In double: high powers of small numbers are zero in single precision.
        size = torch.linalg.vector_norm(vectors.double(), ord=kind, dim=-1, keepdim=True).float()
    return torch.where(size > 0, vectors / size, torch.zeros_like(vectors))
