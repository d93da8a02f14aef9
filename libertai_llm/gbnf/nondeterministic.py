"""A pattern as a nondeterministic automaton, after Thompson.

In: a `Pattern`. Out: its moves from set of states to set of states, for the subset construction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from libertai_llm.gbnf import charsets
from libertai_llm.gbnf.charsets import Ranges
from libertai_llm.gbnf.patterns import (
    Anchor,
    Concat,
    Pattern,
    PatternError,
    Set,
    Times,
)

MAX_STATES = 40_000
# Of states looked at, all in all: about a second's worth.
MAX_WORK = 3_000_000


class Nondeterministic:
    """States with free edges, edges on anchors, and edges on characters.

    Invariant: `first` and `final` are states; an edge on `^` holds before the first character
    only, one on `$` after the last only.
    """

    def __init__(self, pattern: Pattern, *, is_search: bool) -> None:
        self.free: list[list[int]] = []
        self.anchored: list[list[tuple[bool, int]]] = []
        self.moving: list[tuple[Ranges, int] | None] = []
        self.work = 0
        self.first = self._state()
        inner = self._add(pattern, self.first)
        self.final = self._state()
        self.free[inner].append(self.final)
        if is_search:
            self._open_ends()

    def start(self) -> frozenset[int]:
        """The states before the first character."""
        return self._closure([self.first], at_start=True, at_end=False)

    def accepts(self, states: frozenset[int], *, at_start: bool) -> bool:
        """Whether the text may end here."""
        return self.final in self._closure(states, at_start=at_start, at_end=True)

    def moves(self, states: frozenset[int]) -> Iterator[tuple[int, int, frozenset[int]]]:
        """Where each character leads: `(first, last, states)`, sorted and disjoint."""
        going = [move for state in states if (move := self.moving[state])]
        cuts = sorted({cut for ranges, _ in going for a, b in ranges for cut in (a, b + 1)})
        starts: dict[int, list[int]] = {cut: [] for cut in cuts}
        ends: dict[int, list[int]] = {cut: [] for cut in cuts}
        for ranges, target in going:
            for first, last in ranges:
                starts[first].append(target)
                ends[last + 1].append(target)
        yield from self._sweep(cuts, starts, ends)

    def _sweep(
        self, cuts: list[int], starts: dict[int, list[int]], ends: dict[int, list[int]]
    ) -> Iterator[tuple[int, int, frozenset[int]]]:
        counts: dict[int, int] = {}
        closures: dict[frozenset[int], frozenset[int]] = {}
        for cut, following in zip(cuts, cuts[1:], strict=False):
            for target in ends[cut]:
                counts[target] -= 1
            for target in starts[cut]:
                counts[target] = counts.get(target, 0) + 1
            targets = frozenset(target for target, count in counts.items() if count)
            self._spend(len(counts))
            if targets and targets not in closures:
                closures[targets] = self._closure(targets, at_start=False, at_end=False)
            if targets:
                yield cut, following - 1, closures[targets]

    def _closure(self, states: Iterable[int], *, at_start: bool, at_end: bool) -> frozenset[int]:
        found = set(states)
        queue = list(found)
        self._spend(len(found))
        while queue:
            state = queue.pop()
            anchored = [
                to for is_start, to in self.anchored[state] if (at_start if is_start else at_end)
            ]
            for target in self.free[state] + anchored:
                if target not in found:
                    found.add(target)
                    queue.append(target)
        self._spend(len(found))
        # Only these decide what comes next, so that sets which do the same are the same.
        return frozenset(
            state
            for state in found
            if self.moving[state] or self.anchored[state] or state == self.final
        )

    def _spend(self, work: int) -> None:
        self.work += work
        if self.work > MAX_WORK:
            raise PatternError("it takes too long")

    def _open_ends(self) -> None:
        loop = self._state()
        begin = self._state()
        self.free[begin] += [self.first, loop]
        self.moving[loop] = (charsets.EVERYTHING, begin)
        self.first = begin
        final = self._state()
        self.moving[self.final] = (charsets.EVERYTHING, self.final)
        self.free[self.final].append(final)
        self.final = final

    def _state(self) -> int:
        if len(self.free) >= MAX_STATES:
            raise PatternError("it is too large")
        self.free.append([])
        self.anchored.append([])
        self.moving.append(None)
        return len(self.free) - 1

    def _add(self, pattern: Pattern, at: int) -> int:
        """Add the pattern behind the state `at`; returns the state behind it."""
        if isinstance(pattern, Concat):
            for item in pattern.items:
                at = self._add(item, at)
            return at
        if isinstance(pattern, Times):
            return self._add_times(pattern, at)
        behind = self._state()
        if isinstance(pattern, Set):
            source = self._state()
            self.free[at].append(source)
            self.moving[source] = (pattern.ranges, behind)
        elif isinstance(pattern, Anchor):
            self.anchored[at].append((pattern.is_start, behind))
        else:
            for option in pattern.options:
                start = self._state()
                self.free[at].append(start)
                self.free[self._add(option, start)].append(behind)
        return behind

    def _add_times(self, pattern: Times, at: int) -> int:
        for _ in range(pattern.low):
            at = self._add(pattern.item, at)
        if pattern.high is None:
            loop = self._state()
            self.free[at].append(loop)
            self.free[self._add(pattern.item, loop)].append(loop)
            return loop
        behind = self._state()
        for _ in range(pattern.high - pattern.low):
            self.free[at].append(behind)
            at = self._add(pattern.item, at)
        self.free[at].append(behind)
        return behind
