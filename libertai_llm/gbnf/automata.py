"""Deterministic automata over code points: patterns combined, and written as rules.

In: `Pattern` trees. Out: `Automaton`s, their intersections and differences, and an `Expr` of each.
An automaton leaves one way only to read a text, which a server of December 2023 needs to be fast.
Construction after Rabin and Scott; minimisation after Moore.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from libertai_llm.gbnf import charsets
from libertai_llm.gbnf.charsets import Ranges
from libertai_llm.gbnf.expressions import Expr, Ref, Rules, alt, optional, repeat, seq
from libertai_llm.gbnf.nondeterministic import Nondeterministic
from libertai_llm.gbnf.patterns import Pattern, PatternError

MAX_STATES = 6_000
# Moore's refinement takes time quadratic in the states.
_MAX_MINIMISED = 400
_MAX_NESTING = 12

Edges: TypeAlias = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Automaton:
    """States 0…; 0 is the start. An edge is `(first, last, target)`; no edge: refused.

    Invariant: a state's edges are sorted and disjoint, and from each state but the start some text
    is accepted.
    """

    edges: tuple[Edges, ...]
    accepting: frozenset[int]

    @property
    def is_empty(self) -> bool:
        """It accepts no text at all."""
        return not self.accepting

    def accepts(self, text: str) -> bool:
        """Whether it accepts this text."""
        state = 0
        for char in text:
            following = self._step(state, ord(char))
            if following is None:
                return False
            state = following
        return state in self.accepting

    def _step(self, state: int, code: int) -> int | None:
        return next((to for low, high, to in self.edges[state] if low <= code <= high), None)


def from_pattern(pattern: Pattern, *, is_search: bool = False) -> Automaton:
    """The texts that match as a whole, or, if `is_search`, that hold a match.

    Raises `PatternError` if there would be too many states.
    """
    source = Nondeterministic(pattern, is_search=is_search)
    queue = deque([source.start()])
    # NOTE: the start is a state of its own: `^` holds there only.
    known = {frozenset({-1}): 0}
    edges: list[Edges] = []
    accepting = set()
    while queue:
        states = queue.popleft()
        if source.accepts(states, at_start=not edges):
            accepting.add(len(edges))
        edges.append(_edges(source.moves(states), known, queue))
    return _tidy(edges, accepting)


def exactly(texts: Iterable[str]) -> Automaton:
    """Just these texts."""
    edges: list[dict[int, int]] = [{}]
    accepting = set()
    for text in texts:
        state = 0
        for char in text:
            if ord(char) not in edges[state]:
                check_size(len(edges))
                edges[state][ord(char)] = len(edges)
                edges.append({})
            state = edges[state][ord(char)]
        accepting.add(state)
    return _tidy([tuple((c, c, to) for c, to in sorted(each.items())) for each in edges], accepting)


def of_length(low: int, high: int | None) -> Automaton:
    """Texts of `low` to `high` characters."""
    last = low if high is None else high
    check_size(last)
    edges = [tuple((a, b, n + 1) for a, b in charsets.EVERYTHING) for n in range(last)]
    edges.append(tuple((a, b, last) for a, b in charsets.EVERYTHING) if high is None else ())
    return Automaton(tuple(edges), frozenset(range(low, last + 1)))


def multiples(divisor: int) -> Automaton:
    """Decimal numerals of the multiples, as JSON writes whole numbers: `-?(0|[1-9][0-9]*)`."""
    check_size(divisor)
    # 0: start, 1: after the sign, 2: the lone zero, 3 + r: remainder r of what was read.
    first = tuple((48 + digit, 48 + digit, 3 + digit % divisor) for digit in range(1, 10))
    edges: list[Edges] = [((45, 45, 1), (48, 48, 2), *first), ((48, 48, 2), *first), ()]
    for rest in range(divisor):
        edges.append(tuple((48 + d, 48 + d, 3 + (rest * 10 + d) % divisor) for d in range(10)))
    return _tidy(edges, {2, 3})


def intersection(one: Automaton, other: Automaton) -> Automaton:
    """The texts that both accept."""
    return _product(one, other, is_difference=False)


def difference(one: Automaton, other: Automaton) -> Automaton:
    """The texts that the first accepts and the other does not."""
    return _product(one, other, is_difference=True)


_LOOP = tuple((first, last, 0) for first, last in charsets.EVERYTHING)
EVERYTHING = Automaton((_LOOP,), frozenset({0}))


def check_size(states: int) -> None:
    """Raises `PatternError` for more states than may be."""
    if states > MAX_STATES:
        raise PatternError(f"it needs more than {MAX_STATES} states")


def _edges(
    moves: Iterable[tuple[int, int, frozenset[int]]],
    known: dict[frozenset[int], int],
    queue: deque[frozenset[int]],
) -> Edges:
    found = []
    for first, last, target in moves:
        if target not in known:
            check_size(len(known))
            known[target] = len(known)
            queue.append(target)
        found.append((first, last, known[target]))
    return tuple(found)


def _product(one: Automaton, other: Automaton, *, is_difference: bool) -> Automaton:
    known: dict[tuple[int, int], int] = {(0, 0): 0}
    queue = deque(known)
    edges: list[Edges] = []
    accepting = set()
    while queue:
        left, right = queue.popleft()
        if left in one.accepting and (right in other.accepting) != is_difference:
            accepting.add(len(edges))
        # -1: the other has refused already.
        found = []
        theirs = other.edges[right] if right >= 0 else ()
        for first, last, to_left, to_right in _meet(one.edges[left], theirs):
            if to_right < 0 and not is_difference:
                continue
            pair = (to_left, to_right)
            if pair not in known:
                check_size(len(known))
                known[pair] = len(known)
                queue.append(pair)
            found.append((first, last, known[pair]))
        edges.append(tuple(found))
    return _tidy(edges, accepting)


def _meet(ours: Edges, theirs: Edges) -> Iterable[tuple[int, int, int, int]]:
    """Our edges cut where theirs begin and end; -1 where they have none."""
    for first, last, to in ours:
        at = first
        for low, high, target in theirs:
            if high < at or low > last:
                continue
            if low > at:
                yield at, low - 1, to, -1
                at = low
            yield at, min(high, last), to, target
            at = min(high, last) + 1
        if at <= last:
            yield at, last, to, -1


def _tidy(edges: list[Edges], accepting: set[int]) -> Automaton:
    """Without dead ends, and, if it is not too large, without states that do the same."""
    alive = _alive(edges, accepting)
    kept = [tuple(edge for edge in each if edge[2] in alive) for each in edges]
    blocks = list(range(len(kept)))
    if len(kept) <= _MAX_MINIMISED:
        blocks = _minimise(kept, accepting)
    return _renumber(kept, accepting, blocks)


def _alive(edges: list[Edges], accepting: set[int]) -> set[int]:
    sources: dict[int, list[int]] = {}
    for state, each in enumerate(edges):
        for _, _, target in each:
            sources.setdefault(target, []).append(state)
    alive, queue = set(accepting), list(accepting)
    while queue:
        for source in sources.get(queue.pop(), ()):
            if source not in alive:
                alive.add(source)
                queue.append(source)
    return alive


def _minimise(edges: list[Edges], accepting: set[int]) -> list[int]:
    """The block of each state; states of one block accept the same texts."""
    blocks = [int(state in accepting) for state in range(len(edges))]
    count = len(set(blocks))
    while True:
        seen: dict[tuple[int, Edges], int] = {}
        blocks = [
            seen.setdefault((blocks[state], _joined(each, blocks)), len(seen))
            for state, each in enumerate(edges)
        ]
        if len(seen) == count:
            return blocks
        count = len(seen)


def _joined(edges: Edges, names: Mapping[int, int] | list[int]) -> Edges:
    """The edges with their targets renamed, neighbours with one target made one."""
    found: list[tuple[int, int, int]] = []
    for first, last, target in edges:
        name = names[target]
        if found and found[-1][1] + 1 == first and found[-1][2] == name:
            found[-1] = (found[-1][0], last, name)
        else:
            found.append((first, last, name))
    return tuple(found)


def _renumber(edges: list[Edges], accepting: set[int], blocks: list[int]) -> Automaton:
    """One state a block, numbered as they are met from the start on."""
    sample = {block: state for state, block in reversed(list(enumerate(blocks)))}
    order = [blocks[0]]
    known = {blocks[0]}
    for block in order:
        for _, _, target in edges[sample[block]]:
            if blocks[target] not in known:
                known.add(blocks[target])
                order.append(blocks[target])
    numbers = {block: number for number, block in enumerate(order)}
    names = [numbers.get(block, -1) for block in blocks]
    renamed = tuple(_joined(edges[sample[block]], names) for block in order)
    return Automaton(renamed, frozenset(numbers[b] for b in order if sample[b] in accepting))


def to_expr(
    automaton: Automaton, hint: str, chars_of: Callable[[Ranges], Expr], rules: Rules
) -> Expr:
    """The texts it accepts as an expression; `chars_of` says what a character is written as."""
    return _Writer(automaton, hint, chars_of, rules).expr()


class _Writer:
    """One automaton on its way into rules.

    Invariant: a state that several edges lead to, not counting its own, has a rule of its own, so
    every cycle but a state's own passes through a rule.
    """

    def __init__(
        self,
        automaton: Automaton,
        hint: str,
        chars_of: Callable[[Ranges], Expr],
        rules: Rules,
    ) -> None:
        self.automaton = automaton
        self.hint = hint
        self.chars_of = chars_of
        self.rules = rules
        self.refs: dict[int, Ref] = {}
        self.unwritten: deque[int] = deque()
        self.shared = self._shared()

    def expr(self) -> Expr:
        found = self._follow(0, 0)
        while self.unwritten:
            state = self.unwritten.popleft()
            self.rules.define(self.refs[state], self._body(state, 0))
        return found

    def _shared(self) -> set[int]:
        counts = [0] * len(self.automaton.edges)
        counts[0] = 1
        for state, edges in enumerate(self.automaton.edges):
            for target in {to for _, _, to in edges} - {state}:
                counts[target] += 1
        return {state for state, count in enumerate(counts) if count > 1 and self._is_long(state)}

    def _is_long(self, state: int) -> bool:
        """A rule of its own is worth it: more than one further character may follow."""
        edges = self.automaton.edges
        return any(edges[target] for _, _, target in edges[state] if target != state)

    def _follow(self, state: int, depth: int) -> Expr:
        if state not in self.shared and depth < _MAX_NESTING:
            return self._body(state, depth)
        if state not in self.refs:
            self.refs[state] = self.rules.reserve(self.hint)
            self.unwritten.append(state)
        return self.refs[state]

    def _body(self, state: int, depth: int) -> Expr:
        parts: list[Expr] = []
        targets = self._targets(state)
        while len(targets) == 1 and state not in self.automaton.accepting and state not in targets:
            ((state, ranges),) = targets.items()
            parts.append(self.chars_of(ranges))
            if state in self.shared:
                return seq(*parts, self._follow(state, depth))
            targets = self._targets(state)
        loop = targets.pop(state, ())
        if loop:
            parts.append(repeat(self.chars_of(loop), 0, None))
        options = [
            seq(self.chars_of(ranges), self._follow(target, depth + 1))
            for target, ranges in targets.items()
        ]
        rest = alt(*options)
        parts.append(optional(rest) if state in self.automaton.accepting else rest)
        return seq(*parts)

    def _targets(self, state: int) -> dict[int, Ranges]:
        found: dict[int, list[tuple[int, int]]] = {}
        for first, last, target in self.automaton.edges[state]:
            found.setdefault(target, []).append((first, last))
        return {target: charsets.union(ranges) for target, ranges in found.items()}
