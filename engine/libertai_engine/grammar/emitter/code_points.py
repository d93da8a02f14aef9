"""Sets of code points as ranges, the bytes that their UTF-8 begins with, and sets of small numbers.

In: ranges `(first, last)`, both inclusive. Out: ranges, or sets of bytes as bits of an integer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

Ranges: TypeAlias = tuple[tuple[int, int], ...]

FIRST_SURROGATE, LAST_SURROGATE = 0xD800, 0xDFFF
LAST_CODE_POINT = 0x10FFFF


def joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same code points as sorted, disjoint, non-touching ranges, surrogates left out."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(_without_surrogates(ranges)):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def _without_surrogates(ranges: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    for first, last in ranges:
        below = (first, min(last, FIRST_SURROGATE - 1))
        above = (max(first, LAST_SURROGATE + 1), min(last, LAST_CODE_POINT))
        yield from (each for each in (below, above) if each[0] <= each[1])


def lead_byte(code_point: int) -> int:
    """The first byte of its UTF-8."""
    if code_point < 0x80:
        return code_point
    if code_point < 0x800:
        return 0xC0 | code_point >> 6
    if code_point < 0x10000:
        return 0xE0 | code_point >> 12
    return 0xF0 | code_point >> 18


def lead_bytes(ranges: Ranges) -> int:
    """The first bytes of all of them, as a set of bits. Lead bytes grow with the code points."""
    bits = 0
    for first, last in ranges:
        low, high = lead_byte(first), lead_byte(last)
        bits |= (1 << high + 1) - (1 << low)
    return bits


def bits_of(bits: int) -> Iterator[int]:
    """The numbers in a set of bits, smallest first."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest
