"""Logits to candidates: the tokens still in the race, best first.

In: logits over the vocabulary. Out: `Candidates` on the CPU in float64. This is the only place that
looks for order in the vocabulary, and with a small `k` it never sorts it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

GROUP = 64  # ids whose best logit is looked at first
WIDE = 4096  # columns that it pays to get rid of


class Candidates(NamedTuple):
    """The best tokens of each row.

    `logits` float64 `[rows, k]`, descending, -inf for what was removed and always at the end;
    `ids` int64 `[rows, k]`. Equal logits are in the order of their ids. As they come from the
    vocabulary, a row with a NaN anywhere has one in its first column.
    """

    logits: torch.Tensor
    ids: torch.Tensor


def top_candidates(logits: torch.Tensor, k: int) -> Candidates:
    """The `k` best tokens of each row of `logits` `[rows, vocab]`; of equal ones the lower ids."""
    k = min(k, logits.shape[-1])
    ids = _top_ids(logits, k)
    return _on_cpu(logits.gather(-1, ids), ids)


def all_candidates(logits: torch.Tensor) -> Candidates:
    """The whole vocabulary of each row, sorted."""
    if logits.device.type == "cpu":
        ids = _sorted_ids_on_cpu(logits)
        return _on_cpu(logits.gather(-1, ids), ids)
    values, ids = logits.sort(dim=-1, descending=True, stable=True)
    return _on_cpu(values, ids)


def compact(candidates: Candidates) -> Candidates:
    """The same candidates with the removed ones, which may lie anywhere, moved to the end."""
    logits, order = candidates.logits.sort(dim=-1, descending=True, stable=True)
    return trim(Candidates(logits, candidates.ids.gather(-1, order)))


def trim(candidates: Candidates) -> Candidates:
    """The same candidates without the columns in which all are removed, if there are many."""
    if candidates.ids.shape[-1] <= WIDE:
        return candidates
    width = int((candidates.logits > -torch.inf).sum(dim=-1).max())
    return Candidates(candidates.logits[:, :width], candidates.ids[:, :width])


def _on_cpu(values: torch.Tensor, ids: torch.Tensor) -> Candidates:
    # NOTE: to the CPU before to float64, which not every accelerator has.
    return Candidates(values.cpu().double(), ids.cpu())


def _top_ids(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Ids `[rows, k]` of the `k` largest logits, best first, exact among equal values.

    At most `k` groups of neighbouring ids can hold the `k` best tokens: those with the largest
    maxima (of equal maxima the lower group). So the search goes group maxima first, one pass over
    the vocabulary, and then through `k * GROUP` ids.
    """
    rows, vocab = logits.shape
    if vocab <= 2 * k * GROUP:
        return _exact_top(logits, k)
    whole = vocab // GROUP * GROUP
    groups = logits[:, :whole].view(rows, -1, GROUP)  # [rows, groups, GROUP]
    best = _exact_top(groups.amax(dim=-1), k).sort(dim=-1).values  # [rows, k]
    ids = best[..., None] * GROUP + torch.arange(GROUP, device=logits.device)
    rest = torch.arange(whole, vocab, device=logits.device).expand(rows, -1)
    ids = torch.cat((ids.flatten(1), rest), dim=-1)  # ascending in every row
    return ids.gather(-1, _exact_top(logits.gather(-1, ids), k))


def _exact_top(values: torch.Tensor, k: int) -> torch.Tensor:
    """Indices `[rows, k]` of the `k` largest values, best first, equal ones by index.

    `torch.topk` leaves open which of several equal values it takes and in which order.
    """
    if k >= values.shape[-1]:
        return values.sort(dim=-1, descending=True, stable=True).indices
    found, indices = values.topk(k + 1, dim=-1)
    for row in _rows_cut_inside_a_tie(found):
        indices[row] = values[row].sort(descending=True, stable=True).indices[: k + 1]
    indices = indices[:, :k].sort(dim=-1).values
    order = values.gather(-1, indices).sort(dim=-1, descending=True, stable=True).indices
    return indices.gather(-1, order)


def _rows_cut_inside_a_tie(found: torch.Tensor) -> list[int]:
    """Rows whose last kept value equals the first left out. Equal -inf are removed anyway."""
    last, next_one = found[:, -2], found[:, -1]
    tied: list[int] = ((last == next_one) & (last > -torch.inf)).nonzero().flatten().tolist()
    return tied


def _sorted_ids_on_cpu(logits: torch.Tensor) -> torch.Tensor:
    """All ids `[rows, vocab]`, best first, equal ones by id.

    Several times faster than a stable torch sort: one integer holds the logit, turned into bits
    that grow as it falls, and below them the id; plain integers sort with vector instructions.
    """
    values = logits.float().contiguous().numpy()
    # NOTE: bits tell apart what floats do not: -0.0 and 0.0 are to be equal, and a NaN with its
    # sign set (what x86 makes of 0/0) is to come first like any other.
    values = np.where(np.isnan(values), np.float32(np.nan), values + np.float32(0))
    bits = values.view(np.uint32)
    falling = np.where(bits >> 31, bits, ~bits & np.uint32(0x7FFFFFFF)).astype(np.uint64)
    keys = (falling << np.uint64(32)) | np.arange(logits.shape[-1], dtype=np.uint64)
    keys.sort(axis=-1)
    return torch.from_numpy((keys & np.uint64(0xFFFFFFFF)).astype(np.int64))
