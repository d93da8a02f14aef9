"""The filters of the sampler chain: pure functions from candidates to candidates.

In: `Candidates` (sorted, removed ones -inf at the end), the setting of each row `[rows, 1]` and the
least number of candidates each row keeps `[rows, 1]`. Out: `Candidates`, sorted as before.
Order and formulas are those of llama.cpp's server of December 2023, and of today's for what that
one did not have. Every filter sees probabilities renormalised over the survivors of the one before.
"""

from __future__ import annotations

import torch

from libertai_engine.sampling.candidates import Candidates, compact, trim

Tensor = torch.Tensor
SMALLEST = torch.finfo(torch.float64).tiny
FARTHEST = 1e150  # from the best logit, so that sums of squares stay finite


def probabilities(logits: Tensor) -> Tensor:
    """Softmax of sorted `logits` `[rows, k]`; rows without any candidate give NaN.

    The sum is taken one column after the other, never in a tree whose shape depends on the size of
    the tensor: so a row's numbers are the same bits in any batch.
    """
    weights = (logits - logits[:, :1]).exp()
    return weights / weights.cumsum(dim=-1)[:, -1:]


def top_k(candidates: Candidates, k: Tensor, min_keep: Tensor) -> Candidates:
    """Keep the `k` most likely tokens."""
    return keep_first(candidates, torch.maximum(k, min_keep))


def tail_free(candidates: Candidates, z: Tensor, min_keep: Tensor) -> Candidates:
    """Cut the tail where the curvature of the sorted probabilities has spent its share `z`.

    Phénix and Egan, "Tail Free Sampling" (2019): weights are the absolute second differences of
    the sorted probabilities, normalised. Rows with at most two candidates stay as they are.
    """
    probs = probabilities(candidates.logits)
    size = _count(candidates.logits)
    if probs.shape[-1] <= 2:
        return candidates
    column = _columns(probs)[:, :-2]
    first = probs[:, :-1] - probs[:, 1:]  # [rows, k - 1]
    # NOTE: the last two candidates of a row have no second difference, whatever padding follows.
    inside = column < size - 2
    second = torch.where(inside, (first[:, :-1] - first[:, 1:]).abs(), 0.0)  # [rows, k - 2]
    total = second.cumsum(dim=-1)[:, -1:]
    flat = inside.double() / (size - 2).clamp_min(1)
    share = torch.where(total > 1e-6, second / total, flat).cumsum(dim=-1)
    stop = inside & (share > z) & (column >= min_keep)
    return keep_first(candidates, torch.where(stop.any(-1, keepdim=True), _first(stop), size))


def typical(candidates: Candidates, p: Tensor, min_keep: Tensor) -> Candidates:
    """Keep the tokens whose surprise is nearest to the entropy, up to total probability `p`.

    Meister et al., "Locally Typical Sampling" (2022). The most likely token may go.
    """
    probs = probabilities(candidates.logits)
    distance = (-probs.log() - _entropy(candidates.logits)).abs()
    order = distance.sort(dim=-1, stable=True).indices
    reached = probs.gather(-1, order).cumsum(dim=-1) > p
    stop = reached & (_columns(probs) >= min_keep - 1)
    size = _count(candidates.logits)
    kept = torch.where(stop.any(-1, keepdim=True), _first(stop) + 1, size)
    keep = torch.zeros_like(stop).scatter(-1, order, _columns(probs) < kept)
    left = torch.where(keep, candidates.logits, -torch.inf)
    return compact(Candidates(left, candidates.ids))


def top_p(candidates: Candidates, p: Tensor, min_keep: Tensor) -> Candidates:
    """Keep the fewest most likely tokens whose probabilities add up to `p`.

    Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020).
    """
    reached = probabilities(candidates.logits).cumsum(dim=-1) >= p
    stop = reached & (_columns(reached) + 1 >= min_keep)
    kept = torch.where(stop.any(-1, keepdim=True), _first(stop) + 1, stop.shape[-1])
    return keep_first(candidates, kept)


def min_p(candidates: Candidates, p: Tensor, min_keep: Tensor) -> Candidates:
    """Keep tokens at least `p` times as likely as the most likely one, which always stays.

    The ratio of two probabilities needs no softmax: it is exp of the difference of the logits.
    """
    ratio = (candidates.logits - candidates.logits[:, :1]).exp()
    column = _columns(ratio)
    keep = (ratio >= p) | (column < min_keep) | (column == 0)
    return keep_first(candidates, keep.sum(dim=-1, keepdim=True))


def temperature(candidates: Candidates, t: Tensor, min_keep: Tensor) -> Candidates:
    """Divide the logits by `t` > 0. The best logit becomes 0, so that no `t` can overflow.

    `min_keep` is not looked at: nothing is removed, however unlikely it becomes.
    """
    lowest = torch.finfo(torch.float64).min
    scaled = ((candidates.logits - candidates.logits[:, :1]) / t).clamp_min(lowest)
    is_left = candidates.logits > -torch.inf
    return Candidates(torch.where(is_left, scaled, -torch.inf), candidates.ids)


def dynamic_temperature(candidates: Candidates, settings: Tensor, min_keep: Tensor) -> Candidates:
    """Divide the logits by a temperature that grows with the entropy, from `low` to `high`.

    `settings` is `[rows, 3]`: low, high and the exponent of the entropy's share of the largest
    possible one, the logarithm of the number of candidates.
    """
    low, high, exponent = settings[:, :1], settings[:, 1:2], settings[:, 2:]
    most = _count(candidates.logits).double().log()
    share = torch.where(most > 0, _entropy(candidates.logits) / most, 0.0).clamp(0, 1)
    heat = low + (high - low) * share**exponent
    return temperature(candidates, heat.clamp_min(SMALLEST), min_keep)


def top_n_sigma(candidates: Candidates, n: Tensor, min_keep: Tensor) -> Candidates:
    """Keep the tokens whose logits are at most `n` standard deviations below the best one.

    Tang et al., "Top-nσ: Not All Logits Are You Need" (2024).
    """
    is_left = candidates.logits > -torch.inf
    below = (candidates.logits - candidates.logits[:, :1]).clamp_min(-FARTHEST)
    below = torch.where(is_left, below, 0.0)
    size = _count(candidates.logits)
    mean = below.cumsum(dim=-1)[:, -1:] / size
    spread = torch.where(is_left, (below - mean) ** 2, 0.0).cumsum(dim=-1)[:, -1:]
    keep = is_left & (below >= -n * (spread / size).sqrt())
    return keep_first(candidates, torch.maximum(keep.sum(dim=-1, keepdim=True), min_keep))


def xtc(candidates: Candidates, threshold: Tensor, min_keep: Tensor) -> Candidates:
    """Remove the most likely tokens, all but the last one that has probability `threshold`.

    Weidmann, "Exclude Top Choices" (2024). For every token a coin decides whether to do it: if not,
    the setting is infinite. Rows that would keep fewer than `min_keep` stay as they are.
    """
    size = _count(candidates.logits)
    likely = (probabilities(candidates.logits) >= threshold).sum(dim=-1, keepdim=True)
    removed = (torch.minimum(likely, size) - 1).clamp_min(0)
    removed = torch.where(size - removed >= min_keep, removed, 0)
    if not removed.any():
        return candidates
    keep = _columns(candidates.logits) >= removed
    return compact(Candidates(torch.where(keep, candidates.logits, -torch.inf), candidates.ids))


def keep_first(candidates: Candidates, count: Tensor) -> Candidates:
    """Remove all but the first `count` `[rows, 1]` candidates of each row."""
    keep = _columns(candidates.logits) < count
    left = torch.where(keep, candidates.logits, -torch.inf)
    return trim(Candidates(left, candidates.ids))


def _entropy(logits: Tensor) -> Tensor:
    """In nats, `[rows, 1]`. A token without probability adds nothing: 0 * log 0 is 0 here."""
    probs = probabilities(logits)
    return torch.where(probs > 0, -probs * probs.log(), 0.0).cumsum(dim=-1)[:, -1:]


def _columns(like: Tensor) -> Tensor:
    return torch.arange(like.shape[-1])[None]  # [1, k]


def _count(logits: Tensor) -> Tensor:
    return (logits > -torch.inf).sum(dim=-1, keepdim=True)  # [rows, 1]


def _first(hit: Tensor) -> Tensor:
    return hit.int().argmax(dim=-1, keepdim=True)  # [rows, 1], 0 where there is none
