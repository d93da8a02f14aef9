"""Sets of code points as ranges.

In: `(first, last)` pairs in any order. Out: ranges as `syntax.Chars` wants them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

Ranges: TypeAlias = tuple[tuple[int, int], ...]

LAST_CODE_POINT = 0x10FFFF
FIRST_SURROGATE, LAST_SURROGATE = 0xD800, 0xDFFF


def normalised(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same set, sorted, joined, without surrogates and what lies beyond Unicode.

    A range whose first is greater than its last is empty.
    """
    joined: list[tuple[int, int]] = []
    for first, last in sorted(_without_surrogates(ranges)):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return tuple(joined)


def complement(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Every code point that is in none of `ranges`; never a surrogate."""
    gaps = []
    start = 0
    for first, last in normalised(ranges):
        gaps.append((start, first - 1))
        start = last + 1
    return normalised([*gaps, (start, LAST_CODE_POINT)])


def _without_surrogates(ranges: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    for first, last in ranges:
        below = (first, min(last, FIRST_SURROGATE - 1))
        above = (max(first, LAST_SURROGATE + 1), min(last, LAST_CODE_POINT))
        yield from (part for part in (below, above) if part[0] <= part[1])
