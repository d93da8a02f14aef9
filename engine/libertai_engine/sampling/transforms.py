"""The filters of the sampler chain: pure functions from candidates to candidates.

In: `Candidates` (sorted, removed ones -inf at the end), the setting of each row `[rows, 1]` and the
least number of candidates each row keeps `[rows, 1]`. Out: `Candidates`, sorted as before.
Order and formulas are those of llama.cpp's server of December 2023, and of today's for what that
one did not have. Every filter sees probabilities renormalised over the survivors of the one before.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from libertai_engine.sampling.candidates import WIDE, Candidates, Numbers, compact, trim

Flags = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
SMALLEST = np.finfo(np.float64).tiny
LOWEST = np.finfo(np.float64).min
FARTHEST = 1e150  # from the best logit, so that sums of squares stay finite


def probabilities(candidates: Candidates) -> Numbers:
    """Softmax `[rows, k]` of the candidates; rows without any give NaN."""
    weights, total = _weights(candidates)
    weights /= total
    return weights


def cumulate(values: Numbers) -> Numbers:
    """Sums of the columns of `values` `[rows, k]` up to each one.

    One column after the other, never in a tree whose shape depends on the size of the array: so a
    row's numbers are the same bits in any batch.
    """
    if values.shape[-1] <= WIDE:
        return values.cumsum(axis=-1)
    sums: Numbers = (
        torch.from_numpy(values).cumsum(-1).numpy()
    )  # the same, in a quarter of the time
    return sums


def top_k(candidates: Candidates, k: Numbers, min_keep: Counts) -> Candidates:
    """Keep the `k` most likely tokens."""
    return keep_first(candidates, np.maximum(k, min_keep))


def tail_free(candidates: Candidates, z: Numbers, min_keep: Counts) -> Candidates:
    """Cut the tail where the curvature of the sorted probabilities has spent its share `z`.

    Phénix and Egan, "Tail Free Sampling" (2019): weights are the absolute second differences of
    the sorted probabilities, normalised. Rows with at most two candidates stay as they are.
    """
    probs = probabilities(candidates)
    size = _count(candidates)
    if probs.shape[-1] <= 2:
        return candidates._replace(whole=None)
    first = probs[:, :-1] - probs[:, 1:]  # [rows, k - 1]
    second = first[:, :-1] - first[:, 1:]  # [rows, k - 2]
    np.abs(second, out=second)
    # NOTE: the last two candidates of a row have no second difference, whatever padding follows.
    second[_columns(second) >= size - 2] = 0.0
    total = cumulate(second)[:, -1:]
    if candidates.whole is not None:
        known = candidates.whole.curvature
        total = np.where(np.isnan(known), total, known)
    for width in (WIDE, second.shape[-1]):  # most often the tail begins early
        stop = _tail(second[:, :width], total, size, z, min_keep)
        if stop.any(axis=-1).all():
            break
    return keep_first(candidates, _first_or(stop, size))


def _tail(second: Numbers, total: Numbers, size: Counts, z: Numbers, min_keep: Counts) -> Flags:
    """Which of the first columns of `second` `[rows, k]` lie behind the share `z` of `total`."""
    column = _columns(second)
    inside = column < size - 2
    flat = inside / np.maximum(size - 2, 1)
    shares = np.where(total > 1e-6, second / np.maximum(total, SMALLEST), flat)
    stop: Flags = inside & (cumulate(shares) > z) & (column >= min_keep)
    return stop


def typical(candidates: Candidates, p: Numbers, min_keep: Counts) -> Candidates:
    """Keep the tokens whose surprise is nearest to the entropy, up to total probability `p`.

    Meister et al., "Locally Typical Sampling" (2022). The most likely token may go.
    """
    probs = probabilities(candidates)
    with np.errstate(divide="ignore"):
        distance = np.abs(-np.log(probs) - _entropy(candidates))
    order = np.argsort(distance, axis=-1, kind="stable")
    reached = cumulate(np.take_along_axis(probs, order, -1)) > p
    stop = reached & (_columns(probs) >= min_keep - 1)
    kept = _first_or(stop, _count(candidates) - 1) + 1
    keep = np.zeros_like(stop)
    np.put_along_axis(keep, order, _columns(probs) < kept, -1)
    return compact(Candidates(np.where(keep, candidates.logits, -np.inf), candidates.ids))


def top_p(candidates: Candidates, p: Numbers, min_keep: Counts) -> Candidates:
    """Keep the fewest most likely tokens whose probabilities add up to `p`.

    Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020).
    """
    reached = cumulate(probabilities(candidates)) >= p
    stop = reached & (_columns(reached) + 1 >= min_keep)
    return keep_first(candidates, _first_or(stop, stop.shape[-1] - 1) + 1)


def min_p(candidates: Candidates, p: Numbers, min_keep: Counts) -> Candidates:
    """Keep tokens at least `p` times as likely as the most likely one, which always stays.

    The ratio of two probabilities needs no softmax: it is exp of the difference of the logits.
    """
    ratio = np.exp(candidates.logits - candidates.logits[:, :1])
    column = _columns(ratio)
    keep = (ratio >= p) | (column < min_keep) | (column == 0)
    return keep_first(candidates, keep.sum(axis=-1, keepdims=True))


def temperature(candidates: Candidates, t: Numbers, min_keep: Counts) -> Candidates:
    """Divide the logits by `t` > 0. The best logit becomes 0, so that no `t` can overflow.

    `min_keep` is not looked at: nothing is removed, however unlikely it becomes.
    """
    logits = candidates.logits
    with np.errstate(over="ignore"):
        scaled = np.maximum((logits - logits[:, :1]) / t, LOWEST)
    return candidates._replace(logits=np.where(logits > -np.inf, scaled, -np.inf))


def dynamic_temperature(candidates: Candidates, settings: Numbers, min_keep: Counts) -> Candidates:
    """Divide the logits by a temperature that grows with the entropy, from `low` to `high`.

    `settings` is `[rows, 3]`: see `heat_of`.
    """
    heat = heat_of(_entropy(candidates), _count(candidates), settings)
    return temperature(candidates, heat, min_keep)


def heat_of(entropy: Numbers, size: Counts, settings: Numbers) -> Numbers:
    """The temperature `[rows, 1]` for the entropy of `size` candidates, both `[rows, 1]`.

    `settings` is `[rows, 3]`: low, high and the exponent of the entropy's share of the largest
    possible one, the logarithm of the number of candidates.
    """
    low, high, exponent = settings[:, :1], settings[:, 1:2], settings[:, 2:]
    most = np.log(np.maximum(size, 1))
    share = np.where(most > 0, entropy / np.maximum(most, SMALLEST), 0.0).clip(0, 1)
    heat: Numbers = np.maximum(low + (high - low) * share**exponent, SMALLEST)
    return heat


def top_n_sigma(candidates: Candidates, n: Numbers, min_keep: Counts) -> Candidates:
    """Keep the tokens whose logits are at most `n` standard deviations below the best one.

    Tang et al., "Top-nσ: Not All Logits Are You Need" (2024).
    """
    is_left = candidates.logits > -np.inf
    below = np.maximum(candidates.logits - candidates.logits[:, :1], -FARTHEST)
    with np.errstate(over="ignore"):
        keep = is_left & (below >= -n * _deviation(candidates, below, is_left))
    return keep_first(candidates, np.maximum(keep.sum(axis=-1, keepdims=True), min_keep))


def xtc(candidates: Candidates, threshold: Numbers, min_keep: Counts) -> Candidates:
    """Remove the most likely tokens, all but the last one that has probability `threshold`.

    Weidmann, "Exclude Top Choices" (2024). For every token a coin decides whether to do it: if not,
    the setting is infinite. Rows that would keep fewer than `min_keep` stay as they are.
    """
    if np.isinf(threshold).all():
        return candidates
    size = _count(candidates)
    likely = (probabilities(candidates) >= threshold).sum(axis=-1, keepdims=True)
    removed = np.maximum(np.minimum(likely, size) - 1, 0)
    removed = np.where(size - removed >= min_keep, removed, 0)
    return drop_first(candidates, removed) if removed.any() else candidates


def keep_first(candidates: Candidates, count: Numbers | Counts) -> Candidates:
    """Remove all but the first `count` `[rows, 1]` candidates of each row."""
    width = max(WIDE, int(min(count.max(), candidates.logits.shape[-1])))
    logits, ids = candidates.logits[:, :width], candidates.ids[:, :width]
    return trim(Candidates(np.where(_columns(logits) < count, logits, -np.inf), ids))


def drop_first(candidates: Candidates, count: Counts) -> Candidates:
    """Remove the first `count` `[rows, 1]` candidates of each row."""
    least = int(count.min())
    logits, ids = candidates.logits[:, least:], candidates.ids[:, least:]
    if (count > least).any():
        logits, ids = np.full_like(logits, -np.inf), ids.copy()
        for row, num_dropped in enumerate(count[:, 0].tolist()):
            width = candidates.logits.shape[-1] - num_dropped
            logits[row, :width] = candidates.logits[row, num_dropped:]
            ids[row, :width] = candidates.ids[row, num_dropped:]
    return Candidates(logits, ids)


def _weights(candidates: Candidates) -> tuple[Numbers, Numbers]:
    """exp(logit - best) `[rows, k]`, and the sum of that over all tokens `[rows, 1]`."""
    weights = candidates.logits - candidates.logits[:, :1]
    np.exp(weights, out=weights)
    known = None if candidates.whole is None else candidates.whole.weight
    if known is not None and not np.isnan(known).any():
        return weights, known
    total = cumulate(weights)[:, -1:]
    return weights, total if known is None else np.where(np.isnan(known), total, known)


def _entropy(candidates: Candidates) -> Numbers:
    """In nats, `[rows, 1]`.

    With weights w = exp(d) of sum W, -sum (w/W) log (w/W) is log W - sum (w/W) d.
    """
    if candidates.whole is not None:
        return np.log(candidates.whole.weight) - candidates.whole.mean
    weights, total = _weights(candidates)
    # A token without probability adds nothing: 0 * log 0 is 0 here.
    below = np.maximum(candidates.logits - candidates.logits[:, :1], -FARTHEST)
    entropy = np.log(total) - cumulate(weights * below)[:, -1:] / total
    return np.maximum(entropy, 0.0)


def _deviation(candidates: Candidates, below: Numbers, is_left: Flags) -> Numbers:
    """Standard deviation `[rows, 1]` of `below` where it `is_left`."""
    if candidates.whole is not None:
        return candidates.whole.deviation
    size = np.maximum(is_left.sum(axis=-1, keepdims=True), 1)
    mean = cumulate(np.where(is_left, below, 0.0))[:, -1:] / size
    spread = cumulate(np.where(is_left, (below - mean) ** 2, 0.0))[:, -1:]
    deviation: Numbers = np.sqrt(spread / size)
    return deviation


def _columns(like: npt.NDArray[np.generic]) -> Counts:
    return np.arange(like.shape[-1])[None]  # [1, k]


def _count(candidates: Candidates) -> Counts:
    counts: Counts = (candidates.logits > -np.inf).sum(axis=-1, keepdims=True)
    return counts  # [rows, 1]


def _first_or(hit: Flags, none: Counts | int) -> Counts:
    """The first column `[rows, 1]` that is hit, `none` where there is no such one."""
    return np.where(hit.any(axis=-1, keepdims=True), hit.argmax(axis=-1, keepdims=True), none)
