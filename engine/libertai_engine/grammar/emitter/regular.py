"""What can be one lexeme: parts of a grammar without calls and tokens, and their non-empty texts.

In: nodes of a forest. Out: facts about them, and for a part the node of its non-empty texts.
"""

from __future__ import annotations

from collections.abc import Iterable

from libertai_engine.grammar.emitter.forest import (
    EMPTY,
    Call,
    Choice,
    Forest,
    Lexeme,
    Loop,
    OneToken,
    Series,
    Text,
    children,
)


class Regular:
    """Facts about nodes, found once each.

    Invariant: a node is in `_is_regular` once everything below it is.
    """

    def __init__(self, forest: Forest) -> None:
        self._forest = forest
        self._is_regular: dict[int, bool] = {}
        self._is_nullable: dict[int, bool] = {}
        self._non_empty: dict[int, int] = {}
        self._sizes: dict[int, int] = {}

    def is_regular(self, node: int) -> bool:
        """Whether a node has neither calls nor tokens nor lexemes in it."""
        self._learn(node)
        return self._is_regular[node]

    def is_nullable(self, node: int) -> bool:
        """Whether the empty text is one of a regular node's texts."""
        self._learn(node)
        return self._is_nullable[node]

    def size(self, node: int) -> int:
        """How many characters and classes it has when nothing is shared, copies not counted."""
        self._learn(node)
        return self._sizes[node]

    def _learn(self, root: int) -> None:
        for node in self._forest.below([root], self._is_regular):
            shape = self._forest[node]
            below = children(shape)
            is_other = isinstance(shape, Call | OneToken | Lexeme)
            self._is_regular[node] = not is_other and all(self._is_regular[each] for each in below)
            self._is_nullable[node] = self._nullable(node)
            leaf = len(shape.text) if isinstance(shape, Text) else 1
            self._sizes[node] = sum(self._sizes[each] for each in below) or leaf

    def _nullable(self, node: int) -> bool:
        match self._forest[node]:
            case Series(items):
                return all(self._is_nullable[item] for item in items)
            case Choice(options):
                return any(self._is_nullable[option] for option in options)
            case Loop(item, low, _):
                return low == 0 or self._is_nullable[item]
            case _:
                return False

    def non_empty(self, root: int) -> int:
        """A node for the same texts but the empty one, which a lexeme may not be.

        With N(x) for the non-empty texts of x, and x' for N(x) where x is nullable:
        N(xyz) = N(x)yz | N(y)z | N(z), for as long as what is left out on the left is nullable,
        because a non-empty text has a first part that is not empty. N(x|y) = N(x)|N(y).
        N(x{a,b}) = x{a,b} with a at least 1 if x is not nullable; else x{a,b} = x'{0,b}, each
        empty turn being one left out, and N of that is x'{1,b}.
        """
        for node in self._forest.below([root], self._non_empty):
            self._non_empty[node] = self._without_empty(node)
        return self._non_empty[root]

    def _without_empty(self, node: int) -> int:
        if not self.is_nullable(node):
            return node
        match self._forest[node]:
            case Series(items):
                return self._forest.choice(self._from_each(items))
            case Choice(options):
                return self._forest.choice([self._non_empty[option] for option in options])
            case Loop(item, _, high):
                return self._forest.loop(self._non_empty[item], 1, high)
            case _:
                raise AssertionError("only these can be nullable")

    def _from_each(self, items: tuple[int, ...]) -> Iterable[int]:
        """Every item is nullable here, since their series is."""
        rest = EMPTY
        starts: list[int] = []
        for item in reversed(items):
            starts.append(self._forest.series([self._non_empty[item], rest]))
            rest = self._forest.series([item, rest])
        return reversed(starts)
