"""Which lexemes may come where: first, next to each other, and in place of each other.

In: rules whose leaves are lexemes and tokens. Out: `Order`.

All of it is found by going round until nothing is added, from equations that can only add: what
comes out is the smallest answer that holds, and it is never too small, as each equation takes every
call of a rule for the call from everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from libertai_engine.grammar.emitter.automaton import Budget
from libertai_engine.grammar.emitter.code_points import bits_of
from libertai_engine.grammar.emitter.forest import (
    Call,
    Choice,
    Lexeme,
    Loop,
    OneToken,
    Series,
)
from libertai_engine.grammar.emitter.rules import Rules


@dataclass(frozen=True, slots=True)
class Order:
    """`leaves`: nodes of lexemes and tokens. The others are sets of their indices, as bits.

    `first`: those that a text may begin with; `after[i]`: those that may come right behind leaf i.
    """

    leaves: list[int]
    first: int
    after: list[int]


def ordered(rules: Rules, budget: Budget) -> Order:
    """Raises OverBudget."""
    return _Orderer(rules, budget).order()


class _Orderer:
    """Sets that grow. Invariant: a call's sets are those of its rule's body, or will be."""

    def __init__(self, rules: Rules, budget: Budget) -> None:
        self._rules = rules
        self._forest = rules.forest
        self._budget = budget
        self._nodes = self._forest.below(rules.bodies.values())
        leaves = [each for each in self._nodes if isinstance(self._forest[each], Lexeme | OneToken)]
        self._leaves = leaves
        self._bits = {leaf: 1 << at for at, leaf in enumerate(leaves)}
        self._first = {node: self._bits.get(node, 0) for node in self._nodes}
        self._nullable = dict.fromkeys(self._nodes, False)
        self._after = dict.fromkeys(self._nodes, 0)

    def order(self) -> Order:
        while self._grow_first():
            pass
        while self._grow_after():
            pass
        first = self._first[self._rules.bodies[self._rules.root]]
        return Order(self._leaves, first, [self._after[leaf] for leaf in self._leaves])

    def _grow_first(self) -> bool:
        self._budget.spend(len(self._nodes))
        has_grown = False
        for node in self._nodes:
            first, nullable = self._first_of(node)
            has_grown |= first != self._first[node] or nullable != self._nullable[node]
            self._first[node], self._nullable[node] = first, nullable
        return has_grown

    def _first_of(self, node: int) -> tuple[int, bool]:
        match self._forest[node]:
            case Call(rule):
                body = self._rules.bodies[rule]
                return self._first[body], self._nullable[body]
            case Series(items):
                return self._first_of_series(items)
            case Choice(options):
                return self._union(options), any(self._nullable[each] for each in options)
            case Loop(item, low, _):
                return self._first[item], low == 0 or self._nullable[item]
            case _:
                return self._first[node], False

    def _union(self, nodes: Sequence[int]) -> int:
        union = 0
        for node in nodes:
            union |= self._first[node]
        return union

    def _first_of_series(self, items: Sequence[int]) -> tuple[int, bool]:
        first = 0
        for item in items:
            first |= self._first[item]
            if not self._nullable[item]:
                return first, False
        return first, True

    def _grow_after(self) -> bool:
        self._budget.spend(len(self._nodes))
        before = dict(self._after)
        for node in reversed(self._nodes):
            self._pass_down(node, self._after[node])
        return before != self._after

    def _pass_down(self, node: int, after: int) -> None:
        match self._forest[node]:
            case Call(rule):
                self._after[self._rules.bodies[rule]] |= after
            case Series(items):
                for item in reversed(items):
                    self._after[item] |= after
                    after = self._first[item] | (after if self._nullable[item] else 0)
            case Choice(options):
                for option in options:
                    self._after[option] |= after
            case Loop(item, _, high):
                self._after[item] |= after | (self._first[item] if high != 1 else 0)


def side_by_side(order: Order, together: Sequence[int], budget: Budget) -> list[int]:
    """For each leaf those that the lexer may look for at the same place, as bits.

    At the start these are the first ones of the grammar. Everywhere else they come behind leaves
    that the lexer found at one place before, all of them on one text: so two leaves can be side by
    side only behind two that were, or behind one, and that share a text.
    """
    beside = [order.first if order.first >> at & 1 else 0 for at in range(len(order.leaves))]
    has_grown = True
    while has_grown:
        has_grown = False
        for at, after in enumerate(order.after):
            budget.spend(1 + after.bit_count())
            others = 0
            for other in bits_of(beside[at] & together[at]):
                others |= order.after[other]
            for leaf in bits_of(after if others else 0):
                has_grown |= bool(others & ~beside[leaf])
                beside[leaf] |= others
    return beside
