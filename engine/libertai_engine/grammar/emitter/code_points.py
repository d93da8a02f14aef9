"""The bytes that the UTF-8 of code points begins with, and sets of small numbers.

In: ranges `(first, last)`, both inclusive. Out: sets of bytes as bits of an integer.
"""

from __future__ import annotations

from collections.abc import Iterator

from libertai_engine.grammar.code_points import Ranges


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
