"""The parts: patterns against Python's `re`, ranges of numbers against comparison.

In: random patterns, texts and bounds. Out: equal verdicts.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libertai_llm.errors import UnsupportedSchema
from libertai_llm.gbnf import automata
from libertai_llm.gbnf.charsets import EVERYTHING, complement, intersection, union
from libertai_llm.gbnf.numbers import Bound, decimals, integers
from libertai_llm.gbnf.patterns import parse_pattern
from libertai_llm.grammar import json_schema_grammar
from tests.llm.grammar.language import Language

few = settings(max_examples=150, deadline=None)

LETTERS = st.text("abc-", max_size=7)
ATOMS = st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", "[a-c]", "-", r"\w", r"\W", ""])


def _combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    counts = st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}", "*?"])
    return st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, counts).map(lambda two: f"({two[0]}){two[1]}"),
    )


PATTERNS = st.recursive(ATOMS, _combined, max_leaves=8)
ANCHORED = st.tuples(st.sampled_from(["", "^"]), PATTERNS, st.sampled_from(["", "$"])).map("".join)


@few
@given(ANCHORED, st.lists(LETTERS, min_size=1, max_size=20))
def test_a_pattern_finds_what_re_finds(pattern: str, texts: list[str]) -> None:
    """In ASCII texts without newlines, where the dialects agree."""
    automaton = automata.from_pattern(parse_pattern(pattern), is_search=True)
    for text in texts:
        assert automaton.accepts(text) == bool(re.search(pattern, text)), (pattern, text)


@few
@given(PATTERNS, PATTERNS, st.lists(LETTERS, min_size=1, max_size=20))
def test_both_and_not_the_other(one: str, other: str, texts: list[str]) -> None:
    """Intersection and difference of two patterns."""
    first, second = (automata.from_pattern(parse_pattern(each)) for each in (one, other))
    both, only = automata.intersection(first, second), automata.difference(first, second)
    for text in texts:
        verdicts = bool(re.fullmatch(one, text)), bool(re.fullmatch(other, text))
        assert both.accepts(text) == all(verdicts)
        assert only.accepts(text) == (verdicts == (True, False))


@few
@given(st.lists(LETTERS, max_size=6), st.lists(LETTERS, max_size=10))
def test_exactly_these(texts: list[str], others: list[str]) -> None:
    """A set of texts as an automaton is that set."""
    automaton = automata.exactly(texts)
    assert automaton.is_empty == (not texts)
    for text in texts + others:
        assert automaton.accepts(text) == (text in texts)


@few
@given(st.integers(-3000, 3000), st.integers(0, 4000), st.lists(st.integers(-8000, 8000)))
def test_whole_numbers_between(low: int, width: int, others: list[int]) -> None:
    """Just those from `low` to `low + width`."""
    high = low + width
    bounds = Bound(Decimal(low)), Bound(Decimal(high))
    automaton = automata.from_pattern(integers(*bounds))
    for value in [low - 1, low, low + 1, high - 1, high, high + 1, 0, 10, -10, 100, *others]:
        assert automaton.accepts(str(value)) == (low <= value <= high), value


HUNDREDTHS = st.integers(-400, 400).map(lambda hundredths: Decimal(hundredths) / 100)
BOUNDS = st.none() | st.builds(Bound, HUNDREDTHS, st.booleans())


@few
@given(BOUNDS, BOUNDS, st.lists(st.decimals(-5, 5, places=3), min_size=20, max_size=40))
def test_numbers_between(low: Bound | None, high: Bound | None, values: list[Decimal]) -> None:
    """Just those within the bounds, written in any of their lengths."""
    automaton = automata.from_pattern(decimals(low, high))
    ends = [each.value + nudge for each in (low, high) if each for nudge in (-1, 0, 1)]
    for value in [*values, *ends]:
        # Zero is written without a sign.
        for text in {format(value or value.copy_abs(), "f"), _short(value)}:
            assert automaton.accepts(text) == _is_within(value, low, high), text


def _short(value: Decimal) -> str:
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _is_within(value: Decimal, low: Bound | None, high: Bound | None) -> bool:
    above = low is None or value > low.value or (value == low.value and not low.is_strict)
    below = high is None or value < high.value or (value == high.value and not high.is_strict)
    return above and below


@pytest.mark.parametrize("divisor", [1, 2, 3, 7, 10, 12, 97, 1000])
def test_multiples(divisor: int) -> None:
    """By remainder."""
    automaton = automata.multiples(divisor)
    for value in [*range(-50, 300), 10**9 * divisor, 10**9 * divisor + 1]:
        assert automaton.accepts(str(value)) == (value % divisor == 0)


RANGES = st.lists(st.tuples(st.integers(0, 0x10FFFF), st.integers(0, 0x10FFFF)), max_size=5)


@few
@given(RANGES, RANGES, st.lists(st.integers(0, 0x10FFFF), max_size=20))
def test_sets_of_characters(
    one: list[tuple[int, int]], other: list[tuple[int, int]], codes: list[int]
) -> None:
    """Union, intersection and complement, without surrogates."""
    first, second = union(one), union(other)
    codes = [code for code in codes if not 0xD800 <= code <= 0xDFFF]
    codes += [edge for pair in one + other for edge in pair if not 0xD800 <= edge <= 0xDFFF]
    for code in codes:
        in_first, in_second = _has(one, code), _has(other, code)
        assert _has(union(first, second), code) == (in_first or in_second)
        assert _has(intersection(first, second), code) == (in_first and in_second)
        assert _has(complement(first), code) != in_first
    assert union(first, complement(first)) == EVERYTHING


def _has(ranges: tuple[tuple[int, int], ...] | list[tuple[int, int]], code: int) -> bool:
    return any(first <= code <= last for first, last in ranges)


@settings(max_examples=40, deadline=None)
@given(ANCHORED, st.lists(st.text('ab"\\\n\x01é', max_size=5), min_size=1, max_size=10))
def test_an_automaton_is_its_rules(pattern: str, texts: list[str]) -> None:
    """What becomes a grammar takes what the automaton takes, in JSON's escapes."""
    automaton = automata.from_pattern(parse_pattern(pattern), is_search=True)
    try:
        language = Language(json_schema_grammar({"type": "string", "pattern": pattern}))
    except UnsupportedSchema:
        assert automaton.is_empty
        return
    for text in texts:
        written = json.dumps(text, ensure_ascii=False)
        assert language.accepts(written) == automaton.accepts(text)
