"""One automaton that reads many lexemes at once, to see where the longest match goes wrong.

In: regular parts of a grammar. Out: `Findings`: which of them end on the same text, and which go on
behind a text on which another one ends.

The automaton may accept more than the parts do, never less: long counted repetitions are read as
endless ones. So it can find trouble where there is none, which costs speed alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from libertai_engine.grammar.code_points import Ranges
from libertai_engine.grammar.emitter.code_points import bits_of, lead_bytes
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
    """One code point read. `lexeme` and `part` say where: in which unit or option of which."""

    ranges: Ranges
    target: int
    lexeme: int
    part: int


Place: TypeAlias = "tuple[int, int]"  # a state, and the part that one comes to it from
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


def is_compact(forest: Forest, node: int, steps: int, budget: Budget) -> bool:
    """Whether the automaton of a part can be built in so many steps, however often it repeats
    itself. Raises OverBudget."""
    try:
        _Machine(forest, [node], Budget(steps))
    except OverBudget:
        budget.spend(steps)
        return False
    return True


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
        """NOTE: what leads to the same state is built once. Rules that describe an automaton, such
        as those of a date, come as nodes that share most of what is behind them."""
        todo = self._build_root(lexeme, root, end)
        built: dict[tuple[int, int, int], int] = {}
        while todo:
            node, start, stop, part = todo.pop()
            key = (node, stop, part)
            if key in built:
                self.empties[start].append(built[key])
                continue
            # NOTE: a state of its own, or who comes here later could go other ways from `start`.
            built[key] = self._state(part)
            self.empties[start].append(built[key])
            todo.extend(self._build_node(lexeme, node, built[key], stop, part))

    def _build_root(self, lexeme: int, root: int, end: int) -> list[tuple[int, int, int, int]]:
        """The units of a series, or the options of a choice, with their numbers."""
        shape = self._forest[root]
        if isinstance(shape, Choice):
            return [(option, lexeme, end, part) for part, option in enumerate(shape.options)]
        units = self._forest.units(root)
        via = [lexeme, *(self._state(-1) for _ in units[1:]), end]
        steps = zip(units, via, via[1:], range(len(units)), strict=False)
        return list(steps)

    def _build_node(
        self, lexeme: int, node: int, start: int, stop: int, part: int
    ) -> Iterable[tuple[int, int, int, int]]:
        """Build one node, except for what is below it: that is returned."""
        match self._forest[node]:
            case Text(text):
                self._read_text(text, start, stop, lexeme, part)
            case OneOf(ranges):
                self.edges[start].append(Edge(ranges, stop, lexeme, part))
            case Series(items) if items:
                via = [start, *(self._state(part) for _ in items[1:]), stop]
                return [(*step, part) for step in zip(items, via, via[1:], strict=False)]
            case Choice(options):
                return [(each, start, stop, part) for each in options]
            case Loop() as loop:
                return [(*turn, part) for turn in self._turns(loop, start, stop, part)]
            case _:
                self.empties[start].append(stop)
        return ()

    def _read_text(self, text: str, start: int, stop: int, lexeme: int, part: int) -> None:
        via = [start, *(self._state(part) for _ in text[1:]), stop]
        for each, source, target in zip(text, via, via[1:], strict=False):
            self.edges[source].append(Edge(((ord(each), ord(each)),), target, lexeme, part))

    def _turns(
        self, loop: Loop, start: int, stop: int, part: int
    ) -> Iterator[tuple[int, int, int]]:
        """Copies of the item, from state to state; the last one may be endless."""
        longest = max(1, LONGEST_UNROLLED // max(self._sizes[loop.item], 1))
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
        for left in reversed(range(loop.high - loop.low)):
            self.empties[at].append(stop)
            # NOTE: the last copy leads to `stop` itself, so that what is behind it is shared.
            after = self._state(part) if left else stop
            yield loop.item, at, after
            at = after
        if at != stop:
            self.empties[at].append(stop)


class _Explorer:
    """Makes the automaton deterministic, as far as its texts reach.

    Invariant: `_closed`, `_classes` and `_leads` hold what was asked before.
    """

    def __init__(self, machine: _Machine, num_lexemes: int, budget: Budget) -> None:
        self._machine = machine
        self._budget = budget
        self._closed: dict[int, frozenset[Place]] = {}
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
        for lexeme in range(self._num_lexemes):
            for edge, _ in self._open(self._closure(lexeme))[0]:
                findings.first_bytes[lexeme] |= self._lead_bytes(edge.ranges)
        start = frozenset[Place]().union(*map(self._closure, range(self._num_lexemes)))
        # NOTE: the start is read on from only if some text leads back to it; there, nothing ends.
        seen: set[frozenset[Place]] = set()
        todo = list(self._successors(self._open(start)[0]))
        while todo:
            places = todo.pop()
            if places not in seen:
                seen.add(places)
                ways, ended = self._open(places)
                self._note(findings, ways, ended)
                todo.extend(self._successors(ways))
        return findings

    def _open(self, places: frozenset[Place]) -> tuple[list[Way], int]:
        """The edges that begin at these places, and the lexemes that end there."""
        ended = 0
        ways: list[Way] = []
        for state, part in places:
            ways += [(edge, edge.part == part) for edge in self._machine.edges[state]]
            ended |= self._machine.ends[state]
        self._budget.spend(len(places) + len(ways))
        return ways, ended

    def _closure(self, state: int) -> frozenset[Place]:
        """The places that one is at in a state, without those that only lead on."""
        known = self._closed.get(state)
        if known is None:
            seen = {state}
            todo = [state]
            while todo:
                new = [each for each in self._machine.empties[todo.pop()] if each not in seen]
                seen.update(new)
                todo.extend(new)
            self._budget.spend(len(seen))
            part = self._machine.parts[state]
            stops = (each for each in seen if self._machine.edges[each] or self._machine.ends[each])
            known = self._closed.setdefault(state, frozenset((each, part) for each in stops))
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

    def _successors(self, ways: Iterable[Way]) -> set[frozenset[Place]]:
        """Where each kind of code point leads. Kinds that lead to the same places are one."""
        targets: dict[int, frozenset[Place]] = {}
        for edge, _ in ways:
            kinds = self._class(edge.ranges)
            targets[kinds] = targets.get(kinds, frozenset()) | self._closure(edge.target)
            self._budget.spend(len(targets[kinds]) // 8)
        blocks: list[tuple[int, frozenset[Place]]] = []
        for kinds, reached in targets.items():
            self._budget.spend(len(blocks) + 1)
            left, after = kinds, list[tuple[int, frozenset[Place]]]()
            for block, places in blocks:
                both = block & left
                self._budget.spend((len(places) + len(reached)) // 8 if both else 0)
                left &= ~block
                after += [(block & ~both, places)] if block != both else []
                after += [(both, places | reached)] if both else []
            blocks = [*after, (left, reached)] if left else after
        return {places for _, places in blocks}

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
