"""Whole runs of a grammar as single lexemes, wherever that changes nothing.

In: rules. Out: rules whose regular parts are `Lexeme` nodes. A mask then costs a look into a table
of the lexer's states instead of a step of the parser per character of every token.

What can change: the lexer takes the longest match and never takes it back. Let a grammar have lines
of `name "=" number` and a line feed, with white space allowed behind the number: the lexer takes
the line feed for white space, and the parse that needs it at the end of the line is lost.

When nothing changes. Take a text of the grammar and the way it is cut into lexemes in one of its
parses. The lexer cuts it in the same way if, at every end of a lexeme L in it, no lexeme M that the
lexer looks for at the place where L began can go on: it must stop there, and the parser gets all
lexemes that the text between is one of, L among them. It never stops earlier, because L itself goes
on. So it is enough that

    for no non-empty w in L and no first byte b of what may come behind L
    does any lexeme M beside L have a text that begins with w·b.

"May come behind" and "beside" are found in `follow`, both rather too large than too small; w and b
in `automaton`. Bytes and not characters, since the lexer reads bytes: behind "a", of é and è only
the second byte decides. If it holds, every parse is found, and every parse found is one of the
grammar, as a lexeme stands for the texts of its part. Unfinished texts come out the same: both
forms allow what can still become a text, since no lexeme has impossible parts. A token that a
grammar names is to the lexer a byte of its own that no text has.

Where it does not hold, M is cut before the unit in which it goes on, or around the unit or option
if w ended inside that, and everything is checked anew. A part of one character never goes on, so
in the end there is nothing left to cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from libertai_engine.errors import InvalidRequest
from libertai_engine.grammar.emitter.absorb import absorbed
from libertai_engine.grammar.emitter.automaton import (
    Budget,
    GoingOn,
    OverBudget,
    explored,
    is_compact,
)
from libertai_engine.grammar.emitter.code_points import bits_of
from libertai_engine.grammar.emitter.follow import Order, ordered, side_by_side
from libertai_engine.grammar.emitter.forest import (
    EMPTY,
    Choice,
    Forest,
    Lexeme,
    Loop,
    OneToken,
    Series,
    Text,
    children,
)
from libertai_engine.grammar.emitter.regular import Regular
from libertai_engine.grammar.emitter.rules import Rules

# One takes one to three microseconds.
MOST_STEPS = 400_000
# What a text of 256 KB says stays below this as long as no rule is written out many times. Where
# rules are, llguidance can follow them if they share what comes behind, as the optional keys of an
# object do; then their automaton is small.
LARGEST_LEXEME = 300_000
MOST_STEPS_OF_ONE = 120_000
# Each makes a copy of what is behind the part.
MOST_ABSORBED = 8
# The first byte of no text, by which the lexer knows a token that is named.
TOKEN_MARK = 1 << 0xFF

# A part that goes on, how, and whether it is one of those that ended.
Trouble: TypeAlias = tuple[int, GoingOn, bool]


def merged(rules: Rules, steps: int = MOST_STEPS) -> Rules | None:
    """The rules with lexemes; None if that takes too many steps or makes too many nodes."""
    merger = _Merger(rules, Budget(steps))
    try:
        return merger.merge()
    except (OverBudget, InvalidRequest):
        return None


class _Merger:
    """Cuts parts of rules until no lexeme goes on where another one ends.

    Invariant: the pieces of a part in `_cuts` stand for the same texts as it does, and each is
    smaller; a series and its node in `_instead` stand for the same texts, and drafting that node
    does not come back to the series. `_places` are the runs of the last draft: of which items of
    which series, where something that is not regular follows. A `Lexeme` stands for the non-empty
    texts of its part until the very end, when it becomes one of the part without its empty text.
    """

    def __init__(self, rules: Rules, budget: Budget) -> None:
        self._rules = rules
        self._forest: Forest = rules.forest
        self._budget = budget
        self._regular = Regular(rules.forest)
        self._cuts: dict[int, set[int]] = {}
        self._fitting: dict[int, bool] = {}
        self._instead: dict[int, int] = {}
        self._places: dict[int, set[tuple[int, int, int]]] = {}

    def merge(self) -> Rules:
        """Raises OverBudget."""
        while True:
            draft = self._drafted()
            trouble = list(self._troubles(draft))
            if not trouble:
                return self._finished(draft)
            for node, found, is_own in trouble:
                if not (is_own and self._absorb(node)):
                    self._cut(node, found)

    def _absorb(self, part: int) -> bool:
        """Join a part that goes on where it itself ended with what follows it, where that helps."""
        has_joined = False
        for series, start, end in self._places.get(part, ()):
            joined = absorbed(self._rules, self._regular, series, start, end)
            is_due = joined is not None and len(self._instead) < MOST_ABSORBED
            if joined is not None and is_due and not self._leads_to(joined, series):
                self._instead[series] = joined
                has_joined = True
        return has_joined

    def _leads_to(self, start: int, node: int) -> bool:
        """Whether drafting `start` would come to `node`."""
        below = set(self._forest.below([start]))
        while more := {self._instead[each] for each in below if each in self._instead} - below:
            below.update(self._forest.below(more))
        return node in below

    def _cut(self, node: int, found: GoingOn) -> None:
        """Cut a part before the item in which it goes on, or around it if it is in there already.

        For a series these are places between units, for a choice the options to be set apart;
        what is neither falls into the pieces it has.
        """
        cuts = self._cuts.setdefault(node, set())
        cuts.add(found.part)
        if found.is_inside and not isinstance(self._forest[node], Choice):
            cuts.add(found.part + 1)

    def _drafted(self) -> Rules:
        self._places.clear()
        known: dict[int, int] = {}
        bodies = {rule: self._draft(body, known) for rule, body in self._rules.bodies.items()}
        return Rules(self._forest, bodies, self._rules.root)

    def _draft(self, root: int, known: dict[int, int]) -> int:
        """The node with its uncut regular parts as lexemes. Pieces may be new nodes."""
        todo = [root]
        while todo:
            node = todo[-1]
            if node in known:
                todo.pop()
                continue
            self._budget.spend(1)
            if self._is_whole(node):
                known[node] = self._as_lexeme(node)
                continue
            self._budget.spend(4 * len(children(self._forest[node])))
            pieces = list(self._pieces(node))
            new = [piece for piece in pieces if piece not in known]
            todo.extend(new)
            if not new:
                known[node] = self._reassembled(node, [known[piece] for piece in pieces])
        return known[root]

    def _is_whole(self, node: int) -> bool:
        is_one = node != EMPTY and self._regular.is_regular(node) and node not in self._cuts
        return is_one and self._fits(node)

    def _fits(self, node: int) -> bool:
        """Whether a part is small enough to be in a lexeme."""
        if self._regular.size(node) <= LARGEST_LEXEME:
            return True
        if node not in self._fitting:
            steps = MOST_STEPS_OF_ONE
            self._fitting[node] = is_compact(self._forest, node, steps, self._budget)
        return self._fitting[node]

    def _as_lexeme(self, node: int) -> int:
        lexeme = self._forest.lexeme(node)
        return self._forest.loop(lexeme, 0, 1) if self._regular.is_nullable(node) else lexeme

    def _pieces(self, node: int) -> Iterator[int]:
        """What a node that is not one lexeme is made of, regular neighbours together."""
        if node in self._instead:
            yield self._instead[node]
            return
        cuts = self._cuts_of(node)
        match self._forest[node]:
            case Text(text) if len(self._forest.units(node)) == 1:
                yield from map(self._forest.text, text)
            case Text() | Series():
                yield from self._runs_of(node, cuts)
            case Choice(options):
                yield from map(self._forest.choice, self._groups(options, cuts))
            case Loop(item, _, _):
                yield item

    def _cuts_of(self, node: int) -> set[int]:
        """Where to cut a node; everywhere if it is too large for a lexeme, or its items are."""
        below = children(self._forest[node])
        if all(self._fits(each) for each in [node, *below]):
            return self._cuts.get(node, set())
        return set(range(max(len(below), len(self._forest.units(node)))))

    def _runs_of(self, node: int, cuts: set[int]) -> Iterator[int]:
        """The runs of a series between places to cut at and items that are not regular."""
        items = self._forest.units(node)
        if not items:  # the empty text, of which nothing is a piece, itself neither
            return
        alone = [not self._regular.is_regular(item) for item in items]
        starts = [
            at for at in range(len(items)) if at in cuts or any(alone[max(at - 1, 0) : at + 1])
        ]
        starts = sorted({0, *starts})
        for start, end in zip(starts, [*starts[1:], len(items)], strict=True):
            run = self._forest.series(items[start:end])
            if end < len(items) and alone[end] and not alone[start]:
                self._places.setdefault(run, set()).add((node, start, end))
            yield run

    def _groups(self, options: Iterable[int], cuts: set[int]) -> Iterator[list[int]]:
        group: list[int] = []
        for at, option in enumerate(options):
            if at not in cuts and self._regular.is_regular(option):
                group.append(option)
            else:
                yield [option]
        if group:
            yield group

    def _reassembled(self, node: int, pieces: list[int]) -> int:
        if node in self._instead:
            return pieces[0]
        match self._forest[node]:
            case Choice():
                return self._forest.choice(pieces)
            case Loop(_, low, high):
                return self._forest.loop(pieces[0], low, high)
            case Text() | Series():
                return self._forest.series(pieces)
            case _:
                return node

    def _troubles(self, draft: Rules) -> Iterator[Trouble]:
        """The parts to cut, and why."""
        order = ordered(draft, self._budget)
        texts = [at for at, leaf in enumerate(order.leaves) if not self._is_token(leaf)]
        parts = [self._part(order.leaves[at]) for at in texts]
        if len(parts) > 1 or any(order.after[at] for at in texts):
            yield from self._going_on(order, texts, parts)

    def _going_on(self, order: Order, texts: list[int], parts: list[int]) -> Iterator[Trouble]:
        findings = explored(self._forest, parts, self._budget)
        tokens = sum(1 << at for at, leaf in enumerate(order.leaves) if self._is_token(leaf))
        first_bytes = [TOKEN_MARK] * len(order.leaves)
        together = [tokens] * len(order.leaves)
        for number, at in enumerate(texts):
            first_bytes[at] = findings.first_bytes[number]
            together[at] = sum(1 << texts[other] for other in bits_of(findings.together[number]))
        beside = side_by_side(order, together, self._budget)
        behind = [_union(first_bytes, order.after[at]) for at in texts]
        for found in findings.going_on:
            lost = [
                number
                for number in bits_of(found.ended)
                if found.leads & behind[number] and beside[texts[number]] >> texts[found.lexeme] & 1
            ]
            if lost:
                yield parts[found.lexeme], found, found.lexeme in lost

    def _is_token(self, leaf: int) -> bool:
        return isinstance(self._forest[leaf], OneToken)

    def _part(self, leaf: int) -> int:
        shape = self._forest[leaf]
        assert isinstance(shape, Lexeme)
        return shape.item

    def _finished(self, draft: Rules) -> Rules:
        """Every lexeme without its empty text."""
        known: dict[int, int] = {}
        for node in self._forest.below(draft.bodies.values()):
            match self._forest[node]:
                case Lexeme(item):
                    known[node] = self._forest.lexeme(self._regular.non_empty(item))
                case shape if node not in known:
                    known[node] = self._forest.rebuilt(shape, lambda each: known.get(each, each))
        bodies = {rule: known[body] for rule, body in draft.bodies.items()}
        return Rules(self._forest, bodies, draft.root)


def _union(sets: list[int], members: int) -> int:
    union = 0
    for each in bits_of(members):
        union |= sets[each]
    return union
