"""A second opinion: what a grammar accepts, found in the plainest way.

In: a `Grammar`. Out: after any bytes and tokens, whether they can go on and whether they may end.

It keeps the set of everything that may still have to come, as a pushdown automaton does, and reads
byte after byte. Nothing of it is shared with the emitter or with llguidance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from libertai_engine.grammar.syntax import (
    Alternation,
    Chars,
    Concatenation,
    Grammar,
    Literal,
    Node,
    Reference,
    Repetition,
    Token,
)


@dataclass(frozen=True, slots=True)
class Bytes:
    """One byte out of a range."""

    first: int
    last: int


Part: TypeAlias = Node | Bytes


class Cell:
    """What has to come, and then `rest`. One object for the same two, so identity is equality."""

    __slots__ = ("part", "rest")

    def __init__(self, part: Part, rest: Cell | None) -> None:
        self.part = part
        self.rest = rest


State: TypeAlias = frozenset["Cell | None"]  # None: nothing has to come any more


class Recogniser:
    """Reads answers. Invariant: a state holds cells that begin with bytes or a token only."""

    def __init__(self, grammar: Grammar) -> None:
        self._rules = grammar.rules
        self._cells: dict[tuple[int, int], Cell] = {}
        self._parts: dict[tuple[int, int, int | None], Repetition] = {}
        self._steps: dict[tuple[State, int], State] = {}
        self._by_tokens: dict[State, list[Cell]] = {}
        self._kept: list[object] = []  # so that no id is given twice
        self.start = self._settled([self._cell(Reference(grammar.root), None)])

    def read_byte(self, state: State, byte: int) -> State:
        """What may come after one more byte; empty if it cannot come."""
        known = self._steps.get((state, byte))
        if known is None:
            known = self._steps[state, byte] = self._settled(
                cell.rest for cell in state if cell and _begins_with(cell.part, byte)
            )
        return known

    def read_text(self, state: State, text: bytes) -> State:
        """What may come after these bytes."""
        for byte in text:
            state = self.read_byte(state, byte)
        return state

    def read_token(self, state: State, token_id: int, text: bytes) -> State:
        """What may come after a token, which spells `text` unless that is empty."""
        by_text = self.read_text(state, text) if text else frozenset()
        if state not in self._by_tokens:
            self._by_tokens[state] = [
                cell for cell in state if cell and isinstance(cell.part, Token)
            ]
        named = [cell for cell in self._by_tokens[state] if _names(cell.part, token_id)]
        return by_text | self._settled(cell.rest for cell in named) if named else by_text

    def _settled(self, cells: Iterable[Cell | None]) -> State:
        """The same with everything opened that is neither bytes nor a token."""
        todo = list(cells)
        seen: set[Cell | None] = set()
        settled = set()
        while todo:
            cell = todo.pop()
            if cell in seen:
                continue
            seen.add(cell)
            if cell is None or isinstance(cell.part, Bytes | Token):
                settled.add(cell)
            else:
                todo.extend(self._opened(cell.part, cell.rest))
        return frozenset(settled)

    def _opened(self, part: Part, rest: Cell | None) -> list[Cell | None]:
        if isinstance(part, Reference):
            return [self._cell(self._rules[part.name], rest)]
        if isinstance(part, Alternation):
            return [self._cell(option, rest) for option in part.options]
        if isinstance(part, Repetition):
            return self._repeated(part, rest)
        if isinstance(part, Literal):
            return self._spelled(part.text, rest)
        if isinstance(part, Chars):
            ranges = [utf8_ranges(first, last) for first, last in part.ranges]
            return [self._sequence(spelling, rest) for each in ranges for spelling in each]
        assert isinstance(part, Concatenation)
        return [self._sequence(part.items, rest)]

    def _repeated(self, part: Repetition, rest: Cell | None) -> list[Cell | None]:
        if part.high == 0:
            return [rest]
        low, high = max(part.low - 1, 0), None if part.high is None else part.high - 1
        key = (id(part.item), low, high)
        again = self._parts.setdefault(key, Repetition(part.item, low, high))
        once_more = self._cell(part.item, self._cell(again, rest))
        return [once_more] if part.low else [once_more, rest]

    def _spelled(self, text: str, rest: Cell | None) -> list[Cell | None]:
        if any(0xD800 <= ord(char) <= 0xDFFF for char in text):
            return []
        return [self._sequence([_exactly(byte) for byte in text.encode()], rest)]

    def _sequence(self, items: Sequence[Part], rest: Cell | None) -> Cell | None:
        for item in reversed(items):
            rest = self._cell(item, rest)
        return rest

    def _cell(self, part: Part, rest: Cell | None) -> Cell:
        key = (id(part), id(rest))
        if key not in self._cells:
            self._kept.append(part)
            self._cells[key] = Cell(part, rest)
        return self._cells[key]


def is_complete(state: State) -> bool:
    """Whether an answer in this state may end."""
    return None in state


@cache
def utf8_ranges(first: int, last: int) -> list[tuple[Bytes, ...]]:
    """Sequences of byte ranges that together spell the code points from `first` to `last`."""
    for end in (0x7F, 0x7FF, 0xFFFF):
        if first <= end < last:
            return utf8_ranges(first, end) + utf8_ranges(end + 1, last)
    for num_free in (1, 2, 3):
        mask = (1 << (6 * num_free)) - 1
        if last > 0x7F and first & ~mask != last & ~mask:
            if first & mask:
                return utf8_ranges(first, first | mask) + utf8_ranges((first | mask) + 1, last)
            if last & mask != mask:
                return utf8_ranges(first, (last & ~mask) - 1) + utf8_ranges(last & ~mask, last)
    pairs = zip(chr(first).encode(), chr(last).encode(), strict=True)
    return [tuple(Bytes(low, high) for low, high in pairs)]


@cache
def _exactly(byte: int) -> Bytes:
    return Bytes(byte, byte)


def _begins_with(part: Part, byte: int) -> bool:
    return isinstance(part, Bytes) and part.first <= byte <= part.last


def _names(part: Part, token_id: int) -> bool:
    return isinstance(part, Token) and (part.token_id == token_id) != part.is_negated
