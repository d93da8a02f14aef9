"""One automaton that reads many lexemes at once, to see where the longest match goes wrong.

In: regular parts of a grammar. Out: `Findings`: which of them end on the same text, and which go on
behind a text on which another one ends.

The automaton may accept more than the parts do, never less: long counted repetitions are read as
endless ones. So it can find trouble where there is none, which costs speed alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from libertai_engine.grammar.emitter.code_points import Ranges, bits_of, lead_bytes
from libertai_engine.grammar.emitter.forest import Choice, Forest, Loop, OneOf, Series, Text

# A repetition is unrolled while its copies together stay below this size.
LONGEST_UNROLLED = 40


class OverBudget(Exception):
    """The analysis would take too long."""


class Budget:
    """Steps that may still be made. A count, not a clock: the same grammar ends the same way."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def spend(self, steps: int) -> None:
        """Raises OverBudget."""
        self._left -= steps
        if self._left < 0:
            raise OverBudget


@dataclass(frozen=True, slots=True)
class Edge:
    """One code point read. `lexeme` and `part` say where: in which item or option of which."""

    ranges: Ranges
    target: int
    lexeme: int
    part: int


Way: TypeAlias = "tuple[Edge, bool]"  # an edge, and whether one comes to it from inside its part


@dataclass(frozen=True, slots=True)
class GoingOn:
    """Behind a text that ends each of `ended`, `lexeme` goes on in `part` with one of `leads`.

    `is_inside`: the text ended within that part, not before it. `ended` is a set of lexemes,
    `leads` one of first bytes, both as bits.
    """

    ended: int
    lexeme: int
    part: int
    is_inside: bool
    leads: int


@dataclass(slots=True)
class Findings:
    """What reading every text in all lexemes at once has shown.

    `first_bytes[i]`: what the texts of lexeme i begin with, as bits. `together[i]`: the lexemes
    that share a text with i, i itself among them.
    """

    first_bytes: list[int]
    together: list[int]
    going_on: set[GoingOn] = field(default_factory=set)


def explored(forest: Forest, lexemes: Sequence[int], budget: Budget) -> Findings:
    """Read all texts in all lexemes at once. Raises OverBudget."""
    return _Explorer(_Machine(forest, lexemes, budget), len(lexemes), budget).explore()


class _Machine:
    """A nondeterministic automaton; state i < len(lexemes) starts lexeme i.

    Invariant: `edges[s]`, `empties[s]`, `ends[s]` and `parts[s]` exist for every state s;
    `parts[s]` is the part that s is within, -1 between parts.
    """

    def __init__(self, forest: Forest, lexemes: Sequence[int], budget: Budget) -> None:
        self._forest = forest
        self._budget = budget
        self._sizes: dict[int, int] = {}
        self.edges: list[list[Edge]] = []
        self.empties: list[list[int]] = []
        self.ends: list[int] = []
        self.parts: list[int] = []
        for _ in lexemes:
            self._state(-1)
        for lexeme, root in enumerate(lexemes):
            self._measure(root)
            end = self._state(-1)
            self.ends[end] = 1 << lexeme
            self._build(lexeme, root, end)

    def _state(self, part: int) -> int:
        self._budget.spend(4)
        self.parts.append(part)
        self.edges.append([])
        self.empties.append([])
        self.ends.append(0)
        return len(self.ends) - 1

    def _measure(self, root: int) -> None:
        nodes = self._forest.below([root])
        self._budget.spend(len(nodes))
        for node in nodes:
            self._sizes[node] = min(self._size(node), LONGEST_UNROLLED + 1)

    def _size(self, node: int) -> int:
        match self._forest[node]:
            case Text(text):
                return len(text)
            case Series(below) | Choice(below):
                return sum(self._sizes[each] for each in below)
            case Loop(item, _, _):
                return self._sizes[item]
            case _:
                return 1

    def _build(self, lexeme: int, root: int, end: int) -> None:
        todo = [(root, lexeme, end, -1)]
        while todo:
            node, start, stop, part = todo.pop()
            match self._forest[node]:
                case Text(text):
                    self._read_text(text, start, stop, lexeme, max(part, 0))
                case OneOf(ranges):
                    self.edges[start].append(Edge(ranges, stop, lexeme, max(part, 0)))
                case Series(items):
                    via = [start, *(self._state(part) for _ in items[1:]), stop]
                    todo.extend(_numbered(zip(items, via, via[1:], strict=False), part))
                    if not items:
                        self.empties[start].append(stop)
                case Choice(options):
                    todo.extend(_numbered(((each, start, stop) for each in options), part))
                case Loop() as loop:
                    turns = self._turns(loop, start, stop, max(part, 0))
                    todo.extend((*turn, max(part, 0)) for turn in turns)

    def _read_text(self, text: str, start: int, stop: int, lexeme: int, part: int) -> None:
        via = [start, *(self._state(part) for _ in text[1:]), stop]
        for each, source, target in zip(text, via, via[1:], strict=False):
            self.edges[source].append(Edge(((ord(each), ord(each)),), target, lexeme, part))

    def _turns(
        self, loop: Loop, start: int, stop: int, part: int
    ) -> Iterator[tuple[int, int, int]]:
        """Copies of the item, from state to state; the last one may be endless."""
        longest = LONGEST_UNROLLED // max(self._sizes[loop.item], 1)
        at = start
        for _ in range(min(loop.low, longest)):
            after = self._state(part)
            yield loop.item, at, after
            at = after
        if loop.high is None or loop.high > longest:
            around = self._state(part)
            self.empties[at].append(around)
            self.empties[around].append(stop)
            yield loop.item, around, around
            return
        self.empties[at].append(stop)
        for _ in range(loop.high - loop.low):
            after = self._state(part)
            yield loop.item, at, after
            self.empties[after].append(stop)
            at = after


def _numbered(
    steps: Iterable[tuple[int, int, int]], part: int
) -> Iterator[tuple[int, int, int, int]]:
    """Steps with the number of the item of the whole lexeme that they are in."""
    for at, (node, start, stop) in enumerate(steps):
        yield node, start, stop, at if part < 0 else part


class _Explorer:
    """Makes the automaton deterministic, as far as its texts reach.

    Invariant: every set of states in `_todo` is in `_seen`.
    """

    def __init__(self, machine: _Machine, num_lexemes: int, budget: Budget) -> None:
        self._machine = machine
        self._budget = budget
        self._closed: dict[int, tuple[list[Way], int]] = {}
        self._num_lexemes = num_lexemes
        self._cuts = sorted(
            {
                cut
                for edges in machine.edges
                for edge in edges
                for first, last in edge.ranges
                for cut in (first, last + 1)
            }
        )
        self._classes: dict[Ranges, int] = {}
        self._leads: dict[Ranges, int] = {}

    def explore(self) -> Findings:
        """Follow every text from the start of all lexemes."""
        findings = Findings([0] * self._num_lexemes, [1 << at for at in range(self._num_lexemes)])
        starts = frozenset(range(self._num_lexemes))
        for start in starts:
            for edge, _ in self._closure(start)[0]:
                findings.first_bytes[start] |= self._lead_bytes(edge.ranges)
        seen = {starts}
        todo = [starts]
        while todo:
            states = todo.pop()
            ways, ended = self._open(states)
            if states is not starts:
                self._note(findings, ways, ended)
            new = [each for each in self._successors(ways) if each not in seen]
            seen.update(new)
            todo.extend(new)
        return findings

    def _open(self, states: frozenset[int]) -> tuple[Collection[Way], int]:
        ways: dict[tuple[int, bool], Way] = {}
        ended = 0
        for state in states:
            more, ends = self._closure(state)
            ways.update(((id(way[0]), way[1]), way) for way in more)
            ended |= ends
        self._budget.spend(len(states) + len(ways))
        return ways.values(), ended

    def _closure(self, state: int) -> tuple[list[Way], int]:
        known = self._closed.get(state)
        if known is None:
            seen = {state}
            todo = [state]
            while todo:
                new = [each for each in self._machine.empties[todo.pop()] if each not in seen]
                seen.update(new)
                todo.extend(new)
            self._budget.spend(len(seen))
            edges = (edge for each in sorted(seen) for edge in self._machine.edges[each])
            ways = [(edge, edge.part == self._machine.parts[state]) for edge in edges]
            ends = 0
            for each in seen:
                ends |= self._machine.ends[each]
            known = self._closed.setdefault(state, (ways, ends))
        return known

    def _note(self, findings: Findings, ways: Iterable[Way], ended: int) -> None:
        if not ended:
            return
        for lexeme in bits_of(ended):
            findings.together[lexeme] |= ended
        leads: dict[tuple[int, int, bool], int] = {}
        for edge, is_inside in ways:
            key = (edge.lexeme, edge.part, is_inside)
            leads[key] = leads.get(key, 0) | self._lead_bytes(edge.ranges)
        self._budget.spend(len(leads))
        findings.going_on.update(GoingOn(ended, *key, bits) for key, bits in leads.items())

    def _successors(self, ways: Iterable[Way]) -> set[frozenset[int]]:
        """Where each kind of code point leads. Kinds that lead to the same states are one."""
        targets: dict[int, set[int]] = {}
        for edge, _ in ways:
            targets.setdefault(self._class(edge.ranges), set()).add(edge.target)
        blocks: list[tuple[int, frozenset[int]]] = []
        for kinds, reached in targets.items():
            self._budget.spend(len(blocks) + len(reached))
            left, after = kinds, list[tuple[int, frozenset[int]]]()
            for block, states in blocks:
                both = block & left
                self._budget.spend(len(states) if both else 0)
                left &= ~block
                after += [(block & ~both, states)] if block != both else []
                after += [(both, states | reached)] if both else []
            blocks = [*after, (left, frozenset(reached))] if left else after
        return {states for _, states in blocks}

    def _class(self, ranges: Ranges) -> int:
        """The stretches between cuts that these ranges cover, as bits."""
        bits = self._classes.get(ranges)
        if bits is None:
            bits = 0
            for first, last in ranges:
                low, high = bisect_left(self._cuts, first), bisect_left(self._cuts, last + 1)
                bits |= (1 << high) - (1 << low)
            self._classes[ranges] = bits
        return bits

    def _lead_bytes(self, ranges: Ranges) -> int:
        bits = self._leads.get(ranges)
        return self._leads.setdefault(ranges, lead_bytes(ranges)) if bits is None else bits
