"""The emitter's own tree: nodes are numbers, equal nodes are the same number, all in normal form.

In: code points, token ids and numbers of nodes. Out: numbers of nodes.

Nodes by number instead of by nested objects, because a grammar may be nested thousands of levels
deep: a child always has a smaller number than its parents, so every pass over a tree is a loop over
sorted numbers and none recurses. Sharing equal nodes keeps a rule that is used in many places, and
everything derived from it, as small as one copy.

Building a node applies the laws of regular expressions below, each of which keeps the set of texts
(and of token sequences) that the node stands for:

- a sequence: no part of it is empty or a sequence; with one impossible part it is impossible;
  neighbouring literals are one literal; x{a,b} x{c,d} = x{a+c,b+d}, where x stands for x{1,1} too,
  because every count from a+c to b+d is a sum of one count from each range;
- a choice: no option is a choice, impossible or given twice; options of one code point are one
  class; (x | "") = x?;
- a repetition: see `_join_counts` for x{a,b}{c,d}; (x{0,n} | y)* = (x | y)*, as either side can be
  cut into single x and y and each of these is a turn of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from libertai_engine.errors import InvalidRequest
from libertai_engine.grammar.code_points import Ranges, normalised

# NOTE: a sequence within a sequence is spliced in, and texts are joined, only up to this length.
# Otherwise n nested groups would be copied n times over, and rules of "two of the next rule" would
# write down 2ⁿ characters.
LONGEST_SPLICE = 64

# Counts are multiplied out up to here; beyond it a repetition of a repetition stays one.
LARGEST_COUNT = 1_000_000


@dataclass(frozen=True, slots=True)
class Never:
    """No text at all."""


@dataclass(frozen=True, slots=True)
class Text:
    """Exactly this text. Invariant: at least one code point, no surrogate."""

    text: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """One code point. Invariant: two at least; ranges sorted, disjoint, without surrogates."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class OneToken:
    """One token of the vocabulary, or, negated, any other. Never one that ends an answer."""

    token_id: int
    is_negated: bool


@dataclass(frozen=True, slots=True)
class Call:
    """What the rule of this number stands for."""

    rule: int


@dataclass(frozen=True, slots=True)
class Lexeme:
    """The texts of `item`, to be told apart from what follows by the lexer alone.

    Invariant: `item` has no call and no token and does not match the empty text.
    """

    item: int


@dataclass(frozen=True, slots=True)
class Series:
    """One item after the other; without any, the empty text. Invariant: never exactly one."""

    items: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Any one of the options. Invariant: at least two."""

    options: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """`item` from `low` to `high` times; None: any number. Invariant: high is neither 0 nor 1,1."""

    item: int
    low: int
    high: int | None


Shape: TypeAlias = Never | Text | OneOf | OneToken | Call | Lexeme | Series | Choice | Loop

NEVER = 0
EMPTY = 1


def children(shape: Shape) -> tuple[int, ...]:
    """The nodes directly below one. Calls have none, nor lexemes: what is in those is another
    matter."""
    match shape:
        case Series(items):
            return items
        case Choice(options):
            return options
        case Loop(item, _, _):
            return (item,)
        case _:
            return ()


class Forest:
    """All nodes ever built, by number.

    Invariant: equal shapes have one number; children have smaller numbers than their parents;
    there are at most `limit` nodes; `_calls` has the rules called below each.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._shapes: list[Shape] = [Never(), Series(())]
        self._numbers: dict[Shape, int] = {shape: at for at, shape in enumerate(self._shapes)}
        self._calls = [0, 0]

    def __getitem__(self, node: int) -> Shape:
        return self._shapes[node]

    def __len__(self) -> int:
        return len(self._shapes)

    def calls(self, node: int) -> int:
        """The rules that are called at or below a node, as bits of an integer."""
        return self._calls[node]

    def _add(self, shape: Shape) -> int:
        known = self._numbers.get(shape)
        if known is not None:
            return known
        if len(self._shapes) >= self._limit:
            raise InvalidRequest("the grammar is too large", field="grammar")
        calls = 1 << shape.rule if isinstance(shape, Call) else 0
        for child in children(shape):
            calls |= self._calls[child]
        self._shapes.append(shape)
        self._calls.append(calls)
        return self._numbers.setdefault(shape, len(self._shapes) - 1)

    def text(self, text: str) -> int:
        """Exactly this text, which is nothing at all if it holds a surrogate."""
        if any("\ud800" <= each <= "\udfff" for each in text):
            return NEVER
        return self._add(Text(text)) if text else EMPTY

    def one_of(self, ranges: Ranges) -> int:
        """One code point of the ranges, in any order."""
        clean = normalised(ranges)
        if not clean:
            return NEVER
        if len(clean) == 1 and clean[0][0] == clean[0][1]:
            return self._add(Text(chr(clean[0][0])))
        return self._add(OneOf(clean))

    def token(self, token_id: int, is_negated: bool) -> int:
        return self._add(OneToken(token_id, is_negated))

    def call(self, rule: int) -> int:
        return self._add(Call(rule))

    def lexeme(self, item: int) -> int:
        return self._add(Lexeme(item))

    def series(self, items: Iterable[int]) -> int:
        """One after the other, in normal form."""
        flat = [part for item in items for part in self._spliced_series(item)]
        if NEVER in flat:
            return NEVER
        parts = list(self._with_counts_added(self._with_texts_joined(flat)))
        return parts[0] if len(parts) == 1 else self._add(Series(tuple(parts)))

    def _spliced_series(self, item: int) -> Sequence[int]:
        shape = self._shapes[item]
        is_short = isinstance(shape, Series) and len(shape.items) <= LONGEST_SPLICE
        return shape.items if isinstance(shape, Series) and is_short else (item,)

    def _with_texts_joined(self, items: Sequence[int]) -> Iterator[int]:
        run = ""
        for item in items:
            shape = self._shapes[item]
            text = shape.text if isinstance(shape, Text) else ""
            if run and not (text and len(run) + len(text) <= LONGEST_SPLICE):
                yield self.text(run)
                run = ""
            run += text
            if not text:
                yield item
        if run:
            yield self.text(run)

    def _with_counts_added(self, items: Iterable[int]) -> Iterator[int]:
        base, low, high = EMPTY, 0, 0  # type: int, int, int | None
        for item in items:
            next_base, next_low, next_high = self._counted(item)
            if next_base == base and low + next_low <= LARGEST_COUNT:
                low += next_low
                high = None if high is None or next_high is None else high + next_high
                continue
            if base != EMPTY:
                yield self.loop(base, low, high)
            base, low, high = next_base, next_low, next_high
        if base != EMPTY:
            yield self.loop(base, low, high)

    def _counted(self, item: int) -> tuple[int, int, int | None]:
        shape = self._shapes[item]
        return (shape.item, shape.low, shape.high) if isinstance(shape, Loop) else (item, 1, 1)

    def choice(self, options: Iterable[int]) -> int:
        """Any of these, in normal form."""
        flat = [part for option in options for part in self._spliced_choice(option)]
        kept = [each for each in dict.fromkeys(flat) if each not in (NEVER, EMPTY)]
        kept = self._with_classes_joined(kept)
        if EMPTY in flat:
            return self.loop(self.choice(kept), 0, 1)
        if len(kept) < 2:
            return kept[0] if kept else NEVER
        return self._add(Choice(tuple(kept)))

    def _spliced_choice(self, option: int) -> Sequence[int]:
        shape = self._shapes[option]
        if isinstance(shape, Loop) and (shape.low, shape.high) == (0, 1):
            return (EMPTY, shape.item)
        is_short = isinstance(shape, Choice) and len(shape.options) <= LONGEST_SPLICE
        return shape.options if isinstance(shape, Choice) and is_short else (option,)

    def _with_classes_joined(self, options: list[int]) -> list[int]:
        classes = {each: self._as_class(each) for each in options}
        ranges = [pair for found in classes.values() if found for pair in found]
        if sum(found is not None for found in classes.values()) < 2:
            return options
        first = next(each for each in options if classes[each])
        one = self.one_of(tuple(ranges))
        kept = [
            one if each == first else each for each in options if not classes[each] or each == first
        ]
        return list(dict.fromkeys(kept))

    def _as_class(self, option: int) -> Ranges | None:
        shape = self._shapes[option]
        if isinstance(shape, OneOf):
            return shape.ranges
        if isinstance(shape, Text) and len(shape.text) == 1:
            return ((ord(shape.text), ord(shape.text)),)
        return None

    def loop(self, item: int, low: int, high: int | None) -> int:
        """From `low` to `high` times, in normal form."""
        if item == NEVER:
            return EMPTY if low == 0 else NEVER
        if item == EMPTY or high == 0:
            return EMPTY
        if low == high == 1:
            return item
        shape = self._shapes[item]
        if isinstance(shape, Loop) and (counts := _join_counts(shape, low, high)):
            return self.loop(shape.item, *counts)
        if isinstance(shape, Choice) and high is None and low <= 1:
            return self._loop_of_choice(shape.options, low)
        return self._add(Loop(item, low, high))

    def _loop_of_choice(self, options: tuple[int, ...], low: int) -> int:
        bases = [self._counted(option) for option in options]
        if all(base_low > 1 or (base_low, base_high) == (1, 1) for _, base_low, base_high in bases):
            return self._add(Loop(self._add(Choice(options)), low, None))
        low = 0 if any(base_low == 0 for _, base_low, _ in bases) else low
        turns = [
            base if base_low <= 1 else option
            for option, (base, base_low, _) in zip(options, bases, strict=True)
        ]
        return self.loop(self.choice(turns), low, None)

    def rebuilt(self, shape: Shape, of: Callable[[int], int]) -> int:
        """The node of this shape with every child replaced by what `of` says."""
        match shape:
            case Series(items):
                return self.series([of(item) for item in items])
            case Choice(options):
                return self.choice([of(option) for option in options])
            case Loop(item, low, high):
                return self.loop(of(item), low, high)
            case _:
                return self._numbers[shape]

    def units(self, node: int) -> list[int]:
        """What a series may be cut between: its items, of short texts the characters."""
        shape = self._shapes[node]
        items = shape.items if isinstance(shape, Series) else (node,)
        return [unit for item in items for unit in self._characters(item)]

    def _characters(self, item: int) -> Iterable[int]:
        shape = self._shapes[item]
        is_short = isinstance(shape, Text) and len(shape.text) <= LONGEST_SPLICE
        return map(self.text, shape.text) if isinstance(shape, Text) and is_short else (item,)

    def below(self, roots: Iterable[int], known: Container[int] = ()) -> list[int]:
        """Every node at or below these, children first. Follows neither calls nor known nodes."""
        found = {root for root in roots if root not in known}
        todo = list(found)
        while todo:
            below = children(self._shapes[todo.pop()])
            new = [each for each in below if each not in found and each not in known]
            found.update(new)
            todo.extend(new)
        return sorted(found)


def _join_counts(inner: Loop, low: int, high: int | None) -> tuple[int, int | None] | None:
    """The one range of counts that x{a,b}{c,d} stands for; None if it has holes.

    k turns give every count from k·a to k·b. For k and k+1 these ranges touch if
    (k+1)·a ≤ k·b + 1, which holds for every larger k if it holds for k = c.
    """
    a, b = inner.low, inner.high
    touching = low == high or (a <= 1 if b is None and low == 0 else True)
    if b is not None and low != high:
        touching = (low + 1) * a <= low * b + 1
    if not touching:
        return None
    total = None if b is None or high is None else b * high
    return (low * a, total) if max(low * a, total or 0) <= LARGEST_COUNT else None
