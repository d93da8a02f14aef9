"""Logits to candidates: the tokens still in the race, best first.

In: logits over the vocabulary. Out: `Candidates` on the CPU in float64. NumPy holds them, since
they are few as a rule, and then what a call costs counts more than what it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from libertai_engine.sampling.order import Ids, Values, first_ids, sorted_ids

Numbers = npt.NDArray[np.float64]
WIDE = 4096  # columns that it pays to get rid of


class Whole(NamedTuple):
    """What candidates that leave most of the vocabulary out need to know of all of it.

    Each is `[rows, 1]` and of the logits less the best one, `d`, over the temperatures that come
    before the first filter: how many tokens there are, the sum of exp(d), the mean of d weighted
    with that (the entropy is the logarithm of the sum less this mean), the standard deviation of d
    among tokens that are not removed, and the sum of the absolute second differences of the sorted
    probabilities, near enough for the filter to cut at the same place. NaN where the filter in
    question does not ask, and where the candidates are all tokens.
    """

    size: Numbers
    weight: Numbers
    mean: Numbers
    deviation: Numbers
    curvature: Numbers


class Candidates(NamedTuple):
    """The best tokens of each row.

    `logits` float64 `[rows, k]`, descending, -inf for what was removed and always at the end;
    `ids` int64 `[rows, k]`. Equal logits are in the order of their ids. As they come from the
    vocabulary, a row with a NaN anywhere has one in its first column. With `whole`, others that
    the first filter is sure to remove are not listed, and it counts them by these numbers.
    """

    logits: Numbers
    ids: Ids
    whole: Whole | None = None


def top_candidates(logits: torch.Tensor, k: int) -> Candidates:
    """The `k` best tokens of each row of `logits` `[rows, vocab]`; of equal ones the lower ids."""
    k = min(k, logits.shape[-1])
    if logits.device.type != "cpu":
        return best_on_device(logits, k)
    return gather(logits.numpy(), [first_ids(row, k) for row in logits.numpy()])


def best_on_device(logits: torch.Tensor, k: int) -> Candidates:
    """`top_candidates` of logits that an accelerator holds: only they leave it.

    `torch.topk` leaves open which of several equal values it takes and in which order.
    """
    if k == logits.shape[-1]:
        return all_candidates(logits)
    found, indices = (each.cpu().numpy() for each in logits.topk(k + 1, dim=-1))
    for row in np.flatnonzero((found[:, -2] == found[:, -1]) | np.isnan(found[:, 0])):
        indices[row] = first_ids(logits[row].cpu().numpy(), k + 1)
        found[row] = logits[row].cpu().numpy()[indices[row]]
    by_id = np.argsort(indices[:, :k], axis=-1)
    ids = np.take_along_axis(indices, by_id, -1)
    values = np.take_along_axis(found, by_id, -1)
    falling = -np.where(np.isnan(values), np.inf, values)
    order = np.argsort(falling, axis=-1, kind="stable")
    logits64 = np.take_along_axis(values, order, -1).astype(np.float64)
    return Candidates(logits64, np.take_along_axis(ids, order, -1))


def all_candidates(logits: torch.Tensor) -> Candidates:
    """The whole vocabulary of each row, sorted."""
    values = logits.cpu().numpy()
    return gather(values, [sorted_ids(row) for row in values])


def gather(values: Values, ids: Sequence[Ids], whole: Whole | None = None) -> Candidates:
    """The candidates with these `ids`, best first; shorter rows are filled with removed ones."""
    if len(ids) == 1:
        return Candidates(values[0, ids[0]].astype(np.float64)[None], ids[0][None], whole)
    width = max(map(len, ids))
    logits = np.full((len(ids), width), -np.inf)
    columns = np.zeros((len(ids), width), np.int64)
    for row, found in enumerate(ids):
        logits[row, : len(found)] = values[row, found]
        columns[row, : len(found)] = found
    return Candidates(logits, columns, whole)


def compact(candidates: Candidates) -> Candidates:
    """The same candidates with the removed ones, which may lie anywhere, moved to the end."""
    order = np.argsort(np.isneginf(candidates.logits), axis=-1, kind="stable")
    logits = np.take_along_axis(candidates.logits, order, -1)
    return trim(Candidates(logits, np.take_along_axis(candidates.ids, order, -1)))


def trim(candidates: Candidates) -> Candidates:
    """The same candidates without the columns in which all are removed, if there are many."""
    if candidates.ids.shape[-1] <= WIDE:
        return candidates
    width = int((candidates.logits > -np.inf).sum(axis=-1).max())
    return Candidates(candidates.logits[:, :width], candidates.ids[:, :width])
