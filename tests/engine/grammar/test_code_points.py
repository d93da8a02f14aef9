"""Sets of code points are what they say, however they are written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from libertai_engine.grammar.code_points import complement, normalised

POINTS = st.integers(0, 0x110010) | st.sampled_from([0xD7FF, 0xD800, 0xDFFF, 0xE000, 0x10FFFF])
RANGES = st.lists(st.tuples(POINTS, POINTS), max_size=6)


def holds(ranges: tuple[tuple[int, int], ...] | list[tuple[int, int]], point: int) -> bool:
    return any(first <= point <= last for first, last in ranges)


@given(RANGES, POINTS)
def test_a_code_point_is_in_a_set_or_in_its_complement(
    ranges: list[tuple[int, int]], point: int
) -> None:
    """Never in both; surrogates, and what is not Unicode, in neither."""
    is_text = point < 0xD800 or 0xDFFF < point <= 0x10FFFF
    assert holds(normalised(ranges), point) == (is_text and holds(ranges, point))
    assert holds(complement(ranges), point) == (is_text and not holds(ranges, point))


@given(RANGES)
def test_ranges_are_in_order_and_apart(ranges: list[tuple[int, int]]) -> None:
    """So that there is one way to write a set."""
    found = normalised(ranges)
    ends = [end for first, last in found for end in (first, last + 1)]
    assert ends == sorted(set(ends))
    assert normalised(reversed(found)) == found == complement(complement(ranges))
