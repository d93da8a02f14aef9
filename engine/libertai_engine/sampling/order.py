"""Order among float32 numbers, found by their bits and without comparing them one by one.

In: the logits of one row, on the CPU. Out: ids, best logit first, equal ones by id, NaN before all.
A comparison sort of 128,000 logits takes 9 to 24 ms here, two passes of a radix sort 1.3 ms.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint32]

GROUPS = 64  # parts of the vocabulary whose best logits are looked at together
FEW = 256  # so many best ones are found by a threshold; more of them by counting


def sorted_ids(values: Values) -> Ids:
    """All ids of `values` `[n]`, best first."""
    return _sorted(_falling_keys(values))


def first_ids(values: Values, k: int) -> Ids:
    """The first `k` of `sorted_ids(values)`."""
    if k >= len(values):
        return sorted_ids(values)
    if k > FEW or np.isnan(values.max()):
        return _first_by_counting(values, k)
    found = np.flatnonzero(values >= _threshold(values, k))  # ascending
    return found[np.argsort(-values[found], kind="stable")[:k]]


def among(values: Values, ids: Ids) -> Ids:
    """Some ascending `ids` of `values`, best first."""
    return ids[sorted_ids(values[ids])]


def _threshold(values: Values, k: int) -> float:
    """A logit that at least the best `k` reach, and not many others.

    That of the k-th best of some sets: each of the sets that are no worse has such a logit.
    """
    size = len(values) // GROUPS
    if size < k:
        return float(np.partition(values, -k)[-k])
    # NOTE: sets of ids that lie `size` apart, because such maxima are vector instructions.
    best = values[: size * GROUPS].reshape(GROUPS, size).max(axis=0)
    return float(np.partition(best, -k)[-k])


def _first_by_counting(values: Values, k: int) -> Ids:
    """By the upper half of the keys: how many have which, so how far the best `k` reach."""
    keys = _falling_keys(values)
    upper = (keys >> np.uint32(16)).astype(np.uint16)
    last = int(np.bincount(upper).cumsum().searchsorted(k))
    found = np.flatnonzero(upper <= last)
    return found[_sorted(keys[found])[:k]]


def _sorted(keys: Keys) -> Ids:
    """A stable order of `keys`: NumPy sorts 16 bits by counting, in linear time."""
    by_lower = np.argsort(keys.astype(np.uint16), kind="stable")
    upper = (keys >> np.uint32(16)).astype(np.uint16)
    return by_lower[np.argsort(upper[by_lower], kind="stable")]


def _falling_keys(values: Values) -> Keys:
    """Integers that grow as the values fall: equal for equal values, smallest for NaN."""
    bits = (values + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0
    # NOTE: the order of the bits of negative floats is that of their size, so it falls already.
    keys: Keys = (bits ^ (~(bits >> 31) & 0x7FFFFFFF)).view(np.uint32)
    is_nan = np.isnan(values)
    if is_nan.any():  # what x86 makes of 0/0 has its sign set, and would come last
        keys[is_nan] = 0
    return keys
