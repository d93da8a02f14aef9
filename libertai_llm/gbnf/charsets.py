"""Sets of code points as ranges, and what they look like inside a JSON string.

In: ranges in any order. Out: `Ranges`: sorted, disjoint, not touching, without surrogates.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

Ranges: TypeAlias = tuple[tuple[int, int], ...]

LAST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
EVERYTHING: Ranges = ((0, 0xD7FF), (0xE000, LAST))


def union(*sets: Iterable[tuple[int, int]]) -> Ranges:
    """Every code point of any of the sets; surrogates are dropped."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(each for one in sets for each in one if each[0] <= each[1]):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return intersection(merged, EVERYTHING)


def intersection(one: Iterable[tuple[int, int]], other: Iterable[tuple[int, int]]) -> Ranges:
    """The code points of both sets, each sorted and disjoint."""
    others = list(other)
    shared = ((max(first, low), min(last, high)) for first, last in one for low, high in others)
    return tuple(each for each in shared if each[0] <= each[1])


def complement(ranges: Ranges) -> Ranges:
    """Every other code point."""
    gaps, start = [], 0
    for first, last in ranges:
        gaps.append((start, first - 1))
        start = last + 1
    gaps.append((start, LAST))
    return intersection([gap for gap in gaps if gap[0] <= gap[1]], EVERYTHING)


def points(text: str) -> Ranges:
    """The characters of a text."""
    return union((ord(each), ord(each)) for each in text)
