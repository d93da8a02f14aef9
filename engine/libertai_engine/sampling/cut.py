"""The part of the vocabulary that a chain's first filter can leave, found without sorting the rest.

In: logits over a large vocabulary, for chains that begin with a filter that cuts it. Out: sorted
candidates that surely include everything the filter keeps, and what it has to know of the others.
A few passes over the logits cost less than a tenth of what it takes to sort them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from libertai_engine.sampling import transforms
from libertai_engine.sampling.candidates import Candidates, Numbers, Whole, gather
from libertai_engine.sampling.mirostat import ESTIMATED, mirostat_1, mirostat_2, zipf_count
from libertai_engine.sampling.order import Ids, Values, among, first_ids, sorted_ids
from libertai_engine.sampling.transforms import FARTHEST

if TYPE_CHECKING:
    from libertai_engine.sampling.chain import Chain, Filter, Settings

STEPS = 8  # buckets for each factor of e between probabilities
BUCKETS = 4096
HAIR = 1e-9  # so much more than is asked for, so that no rounding of a filter's own sum matters
TINY = 1e-12  # the same for sums that may be 0
HEADS = (256, 4096)  # so many of the best tokens mostly tell where a tail begins
LEAST_SHARE = 0.2  # of all weight: with less of it in a head, a longer one would not help either
LEAST_CURVATURE = 2e-6  # below half of that the filter thinks of the probabilities as equal


@dataclass(slots=True)
class _Row:
    """One row of logits: the best of them, and how far below it all are, over the temperature.

    What the filter will have to know of all tokens is filled in by who decides what to keep.
    """

    values: Values  # [vocab]
    below: Numbers  # [vocab], at most 0; -FARTHEST for what was removed
    min_keep: int
    weight: float = math.nan
    mean: float = math.nan
    deviation: float = math.nan
    curvature: float = math.nan

    def weigh(self) -> Numbers:
        """exp(below) `[vocab]`, and their sum."""
        # NOTE: torch's exp is made of vector instructions on every processor, NumPy's on some.
        weights: Numbers = torch.from_numpy(self.below).exp().numpy()
        self.weight = float(weights.sum())
        return weights


Keep = Callable[[_Row, float], Ids]


def cut(
    logits: torch.Tensor, chains: Sequence[Chain], settings: Sequence[Sequence[Settings]]
) -> Candidates:
    """Candidates for `logits` `[rows, vocab]`; `chains` are of one kind, with these `settings`."""
    values = logits.cpu().numpy()
    kept, wholes = [], []
    for row, chain, each in zip(values, chains, settings, strict=True):
        ids, whole = _cut_row(row, chain, each)
        kept.append(ids)
        wholes.append(whole)
    columns = [np.array(column)[:, None] for column in zip(*wholes, strict=True)]
    return gather(values, kept, Whole(*columns))


def first_cutter(filters: Sequence[Filter]) -> int | None:
    """The place of the first filter that is no temperature, if it cuts."""
    for place, step in enumerate(filters):
        if step is not transforms.temperature:
            return place if step in _KEEPERS else None
    return None


def _cut_row(
    values: Values, chain: Chain, settings: Sequence[Settings]
) -> tuple[Ids, tuple[float, ...]]:
    place = first_cutter(chain.filters)
    assert place is not None
    best = values.argmax()  # NaN counts as the largest
    if not np.isfinite(values[best]):  # an error, whatever else is there
        return np.array([best]), (1.0, 1.0, 0.0, 0.0, 0.0)
    row = _Row(values, _below(values, settings[:place]), chain.min_keep)
    ids = _KEEPERS[chain.filters[place]](row, settings[place][0])
    return ids, (float(len(values)), row.weight, row.mean, row.deviation, row.curvature)


def _below(values: Values, heats: Sequence[Settings]) -> Numbers:
    below = values.astype(np.float64)
    below -= below.max()
    for (heat,) in heats:
        with np.errstate(over="ignore"):
            below /= heat
    return np.maximum(below, -FARTHEST, out=below)


def _keep_top_k(row: _Row, k: float) -> Ids:
    return first_ids(row.values, int(min(max(k, row.min_keep), len(row.values))))


def _keep_top_p(row: _Row, p: float) -> Ids:
    return _keep_nearest(row, -row.below, row.weigh(), p)


def _keep_min_p(row: _Row, p: float) -> Ids:
    return _keep_above(row, math.log(p))


def _keep_typical(row: _Row, p: float) -> Ids:
    weights = row.weigh()
    row.mean = float((weights * row.below).sum()) / row.weight
    return _keep_nearest(row, np.abs(row.below - row.mean), weights, p)


def _keep_sigmas(row: _Row, n: float) -> Ids:
    is_left = row.values > -np.inf
    row.deviation = float(row.below[is_left].std())
    return _keep_above(row, -n * row.deviation)


def _keep_unsurprising(row: _Row, mu: float) -> Ids:
    row.weigh()
    return _keep_above(row, math.log(row.weight) - mu * math.log(2))


def _keep_zipf(row: _Row, mu: float) -> Ids:
    head = first_ids(row.values, ESTIMATED)
    size = len(row.values)
    k = float(zipf_count(row.below[None, head], np.array([[mu]]), size)[0, 0])
    return first_ids(row.values, int(min(max(k, ESTIMATED), size)))


def _keep_tail_free(row: _Row, z: float) -> Ids:
    """The best tokens, if it is certain from them where the tail begins; else all."""
    weights = row.weigh()
    for count in HEADS:
        ids = first_ids(row.values, count)
        if count >= len(row.values) or np.isneginf(row.values[ids[-1]]):
            break
        probs = weights[ids] / row.weight
        second = np.abs(np.diff(probs, 2))
        sums = second.cumsum()
        # The differences of the others fall to 0 in the end: twice the first of them is the most
        # that theirs can add up to.
        least, most = sums[-1], sums[-1] + 2 * probs[-2]
        ends = [
            np.flatnonzero((sums > z * total + hair) & (np.arange(len(sums)) >= row.min_keep))[:1]
            for total, hair in ((least * (1 - HAIR), -TINY), (most * (1 + HAIR), TINY))
        ]
        if least > LEAST_CURVATURE and len(ends[1]) and ends[0] == ends[1]:
            row.curvature = float(least + most) / 2
            return ids
        if probs.sum() < LEAST_SHARE:
            break
    row.weight = math.nan  # to be summed in order
    return sorted_ids(row.values)


def _keep_above(row: _Row, threshold: float) -> Ids:
    """All that is not further below the best than `threshold` < 0, the best, and `min_keep`."""
    lowest = min(threshold, 0.0) * (1 + HAIR) - HAIR
    if row.min_keep > 1:
        at_least = first_ids(row.values, row.min_keep)
        lowest = min(lowest, float(row.below[at_least[-1]]))
    return among(row.values, np.flatnonzero(row.below >= lowest))


def _keep_nearest(row: _Row, distance: Numbers, weights: Numbers, p: float) -> Ids:
    """The tokens of least `distance` `[vocab]` with the share `p` of all weight, and the best."""
    buckets = np.minimum(distance * STEPS, BUCKETS - 1).astype(np.int64)
    reached = np.bincount(buckets, weights, BUCKETS).cumsum()
    last = int(reached.searchsorted((p + HAIR) * row.weight))
    if row.min_keep > 1:
        counts = np.bincount(buckets, minlength=BUCKETS).cumsum()
        last = max(last, int(counts.searchsorted(row.min_keep)))
    is_kept = buckets <= last
    is_kept[row.values.argmax()] = True
    return among(row.values, np.flatnonzero(is_kept))


_KEEPERS: Mapping[Filter, Keep] = {
    transforms.top_k: _keep_top_k,
    transforms.top_p: _keep_top_p,
    transforms.min_p: _keep_min_p,
    transforms.typical: _keep_typical,
    transforms.top_n_sigma: _keep_sigmas,
    transforms.tail_free: _keep_tail_free,
    mirostat_1: _keep_zipf,
    mirostat_2: _keep_unsurprising,
}
