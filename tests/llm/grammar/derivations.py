"""Texts of a grammar, drawn at random from its rules.

In: GBNF text, read by the engine's parser. Out: texts of the language.
"""

from __future__ import annotations

from random import Random

from libertai_engine.grammar.gbnf import parse_gbnf
from libertai_engine.grammar.syntax import (
    Alternation,
    Chars,
    Concatenation,
    Literal,
    Node,
    Reference,
    Repetition,
)

ENOUGH = 300  # steps, after which the shortest way out is taken
SHORT = 1e9


class Derivations:
    """Texts of one grammar. Invariant: `costs` are the fewest steps that end each rule."""

    def __init__(self, text: str, seed: int) -> None:
        self.rules = parse_gbnf(text, token_id_of=lambda name: None).rules
        self.random = Random(seed)
        self.steps = 0
        self.costs = dict.fromkeys(self.rules, SHORT)
        while (found := self._costs()) != self.costs:
            self.costs = found

    def draw(self) -> str:
        """One text."""
        self.steps = 0
        return self._text(self.rules["root"])

    def _costs(self) -> dict[str, float]:
        return {name: self._cost(node) for name, node in self.rules.items()}

    def _cost(self, node: Node) -> float:
        if isinstance(node, Reference):
            return 1 + self.costs[node.name]
        if isinstance(node, Alternation):
            return min(map(self._cost, node.options))
        if isinstance(node, Concatenation):
            return min(SHORT, sum(map(self._cost, node.items)))
        if isinstance(node, Repetition):
            return min(SHORT, node.low * self._cost(node.item))
        return 1

    def _text(self, node: Node) -> str:
        self.steps += 1
        if isinstance(node, Literal):
            return node.text
        if isinstance(node, Chars):
            return self._char(node)
        if isinstance(node, Reference):
            return self._text(self.rules[node.name])
        if isinstance(node, Concatenation):
            return "".join(self._text(item) for item in node.items)
        if isinstance(node, Repetition):
            return "".join(self._text(node.item) for _ in range(self._count(node)))
        assert isinstance(node, Alternation)
        shortest = min(node.options, key=self._cost)
        is_enough = self.steps > ENOUGH
        return self._text(shortest if is_enough else self.random.choice(node.options))

    def _count(self, node: Repetition) -> int:
        if self.steps > ENOUGH:
            return node.low
        high = node.low + 4 if node.high is None else min(node.high, node.low + 30)
        return self.random.randint(node.low, high)

    def _char(self, node: Chars) -> str:
        first, last = self.random.choice(node.ranges)
        # Any of the range, but its ends more often, and plain letters too.
        near = [code for code in (97, 48, 0xE9, 0x1F600) if first <= code <= last]
        return chr(self.random.choice([first, last, self.random.randint(first, last), *near]))
