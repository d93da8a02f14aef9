"""JSON strings that satisfy given schemas.

In: the schemas that hold for one text. Out: the automaton of its characters, None where only
lengths or nothing is asked; and how characters are written inside quotes.
"""

from __future__ import annotations

from collections.abc import Iterable

from libertai_llm.gbnf import automata, charsets, formats
from libertai_llm.gbnf.automata import Automaton
from libertai_llm.gbnf.charsets import Ranges
from libertai_llm.gbnf.expressions import Expr, Text, alt, chars, seq
from libertai_llm.gbnf.patterns import PatternError, Search, parse_pattern, parse_search
from libertai_llm.gbnf.places import Place

MAX_COUNT = 5_000
_SHORT_ESCAPES = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_CONTROLS: Ranges = ((0, 0x1F),)
PLAIN = charsets.complement(charsets.union(_CONTROLS, charsets.points('"\\')))


def escaped(ranges: Ranges) -> Expr:
    """One of these characters as it is written inside quotes; each in one way only."""
    codes = [code for first, last in ranges for code in range(first, min(last, 0x5C) + 1)]
    short = [_SHORT_ESCAPES[chr(code)] for code in codes if chr(code) in _SHORT_ESCAPES]
    long = [code for code in codes if code < 0x20 and chr(code) not in _SHORT_ESCAPES]
    by_tens = [
        seq(Text(f"u00{ten}"), chars(charsets.points("".join(f"{c % 16:x}" for c in group))))
        for ten in (0, 1)
        if (group := [code for code in long if code // 16 == ten])
    ]
    after_backslash = alt(chars(charsets.points("".join(short))), *by_tens)
    plain = chars(charsets.intersection(ranges, PLAIN))
    return alt(plain, seq(Text("\\"), after_backslash))


def length_bounds(leaves: Iterable[Place]) -> tuple[int, int | None]:
    """The least and the greatest number of characters; no more than `MAX_COUNT` can be counted."""
    low, high = 0, None
    for place in leaves:
        least, most = place.count("minLength"), place.count("maxLength")
        for keyword, count in (("minLength", least), ("maxLength", most)):
            if count is not None and count > MAX_COUNT:
                raise place.error(f"more than {MAX_COUNT} cannot be counted", keyword)
        low = max(low, least or 0)
        high = most if high is None else high if most is None else min(high, most)
    return low, high


def characters(leaves: Iterable[Place]) -> Automaton | None:
    """The texts that match the patterns and formats, whatever their lengths; None: all."""
    found: Automaton | None = None
    for place in leaves:
        for keyword in ("pattern", "format"):
            value = place.text(keyword)
            if value is None or (keyword == "format" and not formats.is_known(value)):
                continue
            one = pattern_automaton(place, keyword, value)
            found = one if found is None else both(place, found, one)
    return found


def pattern_automaton(place: Place, keyword: str, value: str) -> Automaton:
    """The texts in which a pattern is found, or, for `format`, that are of this format."""
    known = place.document.automata
    key = ("format" if keyword == "format" else "pattern", value)
    if key not in known:
        try:
            known[key] = _format(value) if keyword == "format" else _search(parse_search(value))
        except PatternError as error:
            raise place.error(f"`{value[:80]}` is beyond us: {error}", keyword) from None
    return known[key]


def _format(name: str) -> Automaton:
    pattern = formats.pattern_of(name)
    if pattern is None:
        raise PatternError("no regular pattern tells this format")
    return automata.from_pattern(parse_pattern(pattern))


def _search(search: Search) -> Automaton:
    found = automata.from_pattern(search.main, is_search=True)
    for pattern in search.wanted:
        found = automata.intersection(found, automata.from_pattern(pattern, is_search=True))
    for pattern in search.unwanted:
        found = automata.difference(found, automata.from_pattern(pattern, is_search=True))
    return found


def both(place: Place, one: Automaton, other: Automaton) -> Automaton:
    """The texts that both take."""
    try:
        return automata.intersection(one, other)
    except PatternError as error:
        raise place.error(f"its patterns together are beyond us: {error}") from None


def texts(leaves: Iterable[Place]) -> Automaton | None:
    """The texts that satisfy all the schemas; None: all texts."""
    leaves = tuple(leaves)
    found = characters(leaves)
    low, high = length_bounds(leaves)
    if (low, high) == (0, None):
        return found
    if high is not None and high < low:
        return automata.exactly(())
    try:
        lengths = automata.of_length(low, high)
        return lengths if found is None else automata.intersection(found, lengths)
    except PatternError as error:
        raise leaves[0].error(f"its lengths and pattern are beyond us: {error}") from None
