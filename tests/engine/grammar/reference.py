"""What a grammar allows, found by trying every way through its tree: slow, short and obvious.

In: a syntax tree without impossible parts. Out: whether bytes begin, or are, a text of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from libertai_engine.grammar.syntax import (
    Alternation,
    Chars,
    Concatenation,
    Grammar,
    Literal,
    Node,
    Reference,
    Repetition,
)

Stack = tuple[Node, ...]  # what must still come, the next last
MOST_WAYS = 200


class TooManyWays(Exception):
    """The grammar is too ambiguous for trying every way."""


@dataclass(frozen=True)
class Progress:
    """All ways to have read some bytes. Invariant: each stack's next is a character, or none."""

    grammar: Grammar
    stacks: frozenset[Stack]
    pending: bytes = b""

    @classmethod
    def start(cls, grammar: Grammar) -> Progress:
        return cls(grammar, frozenset(_opened(grammar, [(grammar.rules[grammar.root],)])))

    @property
    def is_possible(self) -> bool:
        """Whether what was read begins a text."""
        if not self.pending:
            return bool(self.stacks)
        low, high = _reachable(self.pending)
        return any(
            first <= high and last >= low
            for stack in self.stacks
            for first, last in _next_ranges(stack)
        )

    @property
    def is_complete(self) -> bool:
        """Whether what was read is a text."""
        return not self.pending and () in self.stacks

    def read(self, data: bytes) -> Progress:
        """All ways to go on with these bytes; none, if there are none."""
        state = self
        for byte in data:
            state = state._read_byte(bytes([byte]))
        return state

    def _read_byte(self, byte: bytes) -> Progress:
        pending = self.pending + byte
        if not self.is_possible or not _begins_character(pending):
            return Progress(self.grammar, frozenset())
        if len(pending) < _length(pending[0]):
            return Progress(self.grammar, self.stacks, pending)
        point = ord(pending.decode())
        rest = [stack for stack in self.stacks if _holds(_next_ranges(stack), point)]
        return Progress(self.grammar, frozenset(_opened(self.grammar, map(_behind, rest))))


def _next_ranges(stack: Stack) -> tuple[tuple[int, int], ...]:
    match stack[-1:]:
        case (Chars(ranges),):
            return ranges
        case (Literal(text),) if text:
            return ((ord(text[0]), ord(text[0])),)
    return ()


def _behind(stack: Stack) -> Stack:
    match stack[-1]:
        case Literal(text) if len(text) > 1:
            return (*stack[:-1], Literal(text[1:]))
    return stack[:-1]


def _holds(ranges: Iterable[tuple[int, int]], point: int) -> bool:
    return any(first <= point <= last for first, last in ranges)


def _opened(grammar: Grammar, stacks: Iterable[Stack]) -> set[Stack]:
    todo, seen, found = list(stacks), set[Stack](), set[Stack]()
    while todo:
        stack = todo.pop()
        if not stack or isinstance(stack[-1], Chars) or _next_ranges(stack):
            found.add(stack)
        elif stack not in seen:
            seen.add(stack)
            if len(seen) > MOST_WAYS:
                raise TooManyWays
            todo.extend((*stack[:-1], *more) for more in _ways(grammar, stack[-1]))
    return found


def _ways(grammar: Grammar, node: Node) -> Iterator[Stack]:
    match node:
        case Reference(name):
            yield (grammar.rules[name],)
        case Concatenation(items):
            yield tuple(reversed(items))
        case Alternation(options):
            yield from ((option,) for option in options)
        case Repetition(item, low, high):
            if low == 0:
                yield ()
            if high != 0:
                rest = Repetition(item, max(low - 1, 0), None if high is None else high - 1)
                yield (rest, item)
        case Literal(""):
            yield ()


def _length(lead: int) -> int:
    return 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


def _begins_character(pending: bytes) -> bool:
    low, high = _reachable(pending)
    return low <= high


def _reachable(pending: bytes) -> tuple[int, int]:
    """The first and the last code point whose UTF-8 begins so; an empty range if none does."""
    lead, length = pending[0], _length(pending[0])
    if 0x80 <= lead < 0xC2 or lead > 0xF4 or any(each & 0xC0 != 0x80 for each in pending[1:]):
        return 1, 0
    bits = lead if length == 1 else lead & (0x7F >> length)
    for each in pending[1:]:
        bits = bits << 6 | each & 0x3F
    missing = 6 * (length - len(pending))
    smallest = (0, 0x80, 0x800, 0x10000)[length - 1]
    low, high = max(bits << missing, smallest), min((bits + 1 << missing) - 1, 0x10FFFF)
    return (1, 0) if low >= 0xD800 and high <= 0xDFFF else (low, high)
