"""Weights to few bits: which codes and which scales stand for them best.

In: a matrix of weights. Out: integer codes and scales, whose products are near the weights. Nothing
here knows how codes are stored or multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from libertai_engine.kernels.packing import GROUP

_CHUNK = 1 << 18  # weights that are worked on at once: what a core's cache holds
# The code that the largest number of a group would have, if codes were not whole numbers: each
# gives a scale to try. NOTE: below -8, that number is cut, so that the many others fit better.
_LARGEST = (-8.6, -8.1, -7.6, -7.1, -6.6)


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """Codes `[rows, cols]` int8, and the scale of each row `[rows]` or group `[rows, groups]`.

    Codes are -127 to 127 in 8 bits and -8 to 7 in 4; a weight is its code times its scale.
    """

    codes: Tensor
    scale: Tensor


def round_to_int8(weight: Tensor) -> Rounded:
    """One float32 scale a row, so that its largest number has the code 127 or -127."""
    rows, cols = weight.shape
    codes = torch.empty(rows, cols, dtype=torch.int8, device=weight.device)
    scale = torch.empty(rows, dtype=torch.float32, device=weight.device)
    for part in _parts(rows, cols):
        numbers = weight[part].float()
        scale[part] = numbers.abs().amax(1) / 127
        codes[part] = (numbers * _inverse(scale[part])[:, None]).round_().to(torch.int8)
    return Rounded(codes, scale)


def round_to_int4(weight: Tensor) -> Rounded:
    """One float16 scale for every `GROUP` columns: of those tried, the one of least squared error.

    Scales may be negative, since only -8 has no counterpart. For given codes q, the scale of least
    squared error to weights w is sum(w q) / sum(q q), and it explains sum(w q)^2 / sum(q q) of
    sum(w w); so that is what is made large.
    """
    rows, cols = weight.shape
    codes = torch.empty(rows, cols, dtype=torch.int8, device=weight.device)
    groups_a_row = -(-cols // GROUP)
    scale = torch.empty(rows, groups_a_row, dtype=torch.float16, device=weight.device)
    for part in _parts(rows, cols):
        numbers = pad(weight[part].float().contiguous(), (0, -cols % GROUP))
        groups = numbers.view(-1, GROUP)  # [n, 32]
        best = _best_scale(groups).to(torch.float16)  # [n, 1]
        rounded = _codes(groups, _inverse(best.float())).to(torch.int8)
        codes[part] = rounded.view(numbers.shape)[:, :cols]
        scale[part] = best.view(-1, groups_a_row)
    return Rounded(codes, scale)


def _best_scale(groups: Tensor) -> Tensor:
    """`[n, 32]` to `[n, 1]`."""
    largest = _largest(groups)
    inverse = _inverse(largest)
    best, most = torch.zeros_like(largest), torch.zeros_like(largest)
    for code in _LARGEST:
        codes = _codes(groups, inverse * code)
        product = (groups * codes).sum(1, keepdim=True)
        square = (codes * codes).sum(1, keepdim=True).clamp_min_(1.0)
        explained = product * product / square
        best = torch.where(explained > most, product / square, best)
        most = torch.maximum(explained, most)
    return best


def _largest(groups: Tensor) -> Tensor:
    """The number of largest size in each group, with its sign; the first one if there are several.

    `[n, 32]` to `[n, 1]`. NOTE: to ask for its place takes four times as long. That is done only
    where a number and its counterpart are of largest size.
    """
    least, most = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    largest = torch.where(-least > most, least, most)
    tied = (-least == most).squeeze(1).nonzero().squeeze(1)
    some = groups[tied]
    largest[tied] = some.gather(1, some.abs().argmax(1, keepdim=True))
    return largest


def _codes(groups: Tensor, inverse: Tensor) -> Tensor:
    return (groups * inverse).round_().clamp_(-8, 7)


def _inverse(scale: Tensor) -> Tensor:
    """1 / scale; 0 where all numbers are 0, which then have the code 0."""
    return torch.where(scale == 0, 0.0, 1 / scale)


def _parts(rows: int, cols: int) -> Iterator[slice]:
    step = max(1, _CHUNK // cols)
    return (slice(first, first + step) for first in range(0, rows, step))
