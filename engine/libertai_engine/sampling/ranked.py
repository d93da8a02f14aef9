"""A draw in the order of the probabilities, without that order: for samplers that only reshape.

In: one row of logits, a chain of temperatures and of excluded top choices, a random number. Out:
the token that the sorted vocabulary would give. Sorting a large vocabulary takes most of the time
of such a draw, and all but the few tokens about the drawn one are sorted for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from libertai_engine.sampling import transforms
from libertai_engine.sampling.candidates import WIDE, Numbers
from libertai_engine.sampling.order import Values, among

if TYPE_CHECKING:
    from libertai_engine.sampling.chain import Chain, Filter, Settings

STEPS = 8  # buckets for each factor of e between probabilities
BUCKETS = 4096
# Sums in another order differ by less than this share of them. What is nearer to a boundary than
# that is left to who sorts, so that both always agree.
HAIR = 1e-8
COLDEST = 1e-100  # below that, differences of logits may be beyond all numbers


class TooClose(Exception):
    """Rounding might decide here."""


@dataclass(slots=True)
class _Row:
    """One row: `below` `[vocab]` is how far each logit is below the best, -inf if it is removed."""

    values: Values  # [vocab], the logits as they came
    below: Numbers
    min_keep: int

    @property
    def size(self) -> int:
        """How many tokens are left."""
        return len(self.below) - int(np.count_nonzero(np.isneginf(self.below)))

    def weigh(self) -> Numbers:
        """exp(below) `[vocab]`."""
        # NOTE: torch's exp is made of vector instructions on every processor, NumPy's on some.
        weights: Numbers = torch.from_numpy(self.below).exp().numpy()
        return weights


Reshape = Callable[[_Row, Sequence[float]], None]


def draw_by_rank(
    values: Values, chain: Chain, settings: Sequence[Settings], number: float
) -> int | None:
    """The token for `values` `[vocab]` and `number` in [0, 1); None where only sorting can tell.

    That is for other filters, few tokens, rows without finite numbers, and where it is too close.
    """
    if len(values) <= WIDE or any(step not in _RESHAPES for step in chain.filters):
        return None
    best = float(values.max())
    if not math.isfinite(best):
        return None
    row = _Row(values, values.astype(np.float64), chain.min_keep)
    row.below -= best
    try:
        for step, each in zip(chain.filters, settings, strict=True):
            _RESHAPES[step](row, each)
        return _token_at(row, number)
    except TooClose:
        return None


def _heat(row: _Row, settings: Sequence[float]) -> None:
    if settings[0] < COLDEST:
        raise TooClose
    row.below /= settings[0]


def _heat_by_entropy(row: _Row, settings: Sequence[float]) -> None:
    weights = row.weigh()
    total = float(weights.sum())
    weights *= np.maximum(row.below, transforms.LOWEST)  # what is removed adds nothing, and no NaN
    entropy = max(math.log(total) - float(weights.sum()) / total, 0.0)
    heat = transforms.heat_of(np.array([[entropy]]), np.array([[row.size]]), np.array([settings]))
    _heat(row, (float(heat[0, 0]),))


def _exclude(row: _Row, settings: Sequence[float]) -> None:
    threshold = settings[0]
    if math.isinf(threshold):  # the coin said no
        return
    probs = row.weigh()
    probs /= probs.sum()
    likely = np.flatnonzero(probs > threshold - HAIR)
    if (probs[likely] < threshold + HAIR).any():
        raise TooClose
    num_removed = max(len(likely) - 1, 0)
    if row.size - num_removed >= row.min_keep:
        row.below[among(row.values, likely)[:num_removed]] = -np.inf
        row.below -= row.below.max()


_RESHAPES: Mapping[Filter, Reshape] = {
    transforms.temperature: _heat,
    transforms.dynamic_temperature: _heat_by_entropy,
    transforms.xtc: _exclude,
}


def _token_at(row: _Row, number: float) -> int:
    """Where the sum of the weights, the largest first, exceeds the share `number` of it."""
    weights = row.weigh()
    buckets = np.minimum(row.below * -STEPS, BUCKETS - 1).astype(np.int64)
    sums = np.bincount(buckets, weights, BUCKETS).cumsum()
    target = number * sums[-1]
    bucket = int(sums.searchsorted(target, side="right"))
    ids = among(row.values, np.flatnonzero(buckets == bucket))
    before = sums[bucket - 1] if bucket else 0.0
    reached = before + np.append(0.0, weights[ids].cumsum())  # [ids + 1]
    if np.abs(reached - target).min() < HAIR * sums[-1]:
        raise TooClose
    return int(ids[reached.searchsorted(target, side="right") - 1])
