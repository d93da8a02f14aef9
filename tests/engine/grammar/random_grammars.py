"""Random grammars over few characters, so that their parts get into each other's way.

In: a source of randomness. Out: syntax trees without left recursion, each rule of which ends.
"""

from __future__ import annotations

from random import Random

from libertai_engine.grammar.syntax import (
    Alternation,
    Chars,
    Concatenation,
    Grammar,
    Literal,
    Node,
    Reference,
    Repetition,
    Token,
)

LETTERS = 'aabbc1" \néèあい😀'
CLASSES = [
    ((0x61, 0x63),),
    ((0x0A, 0x0A), (0x20, 0x20)),
    ((0x30, 0x39), (0x61, 0x62)),
    ((0, 0x21), (0x23, 0xD7FF), (0xE000, 0x10FFFF)),
    ((0xE8, 0xE9), (0x3042, 0x3044)),
    ((0, 0xD7FF), (0xE000, 0x10FFFF)),
]
COUNTS = [(0, None), (1, None), (0, 1), (0, None), (0, 2), (2, 3), (2, None), (5, 9), (0, 20)]


def random_grammar(random: Random, *, tokens: tuple[int, ...] = ()) -> Grammar:
    """Up to five rules. Where `tokens` are given, some of them appear as nodes of their own."""
    names = ["root", *(f"r{at}" for at in range(random.randrange(5)))]
    maker = _Maker(random, names, tokens)
    return Grammar({name: maker.body(at) for at, name in enumerate(names)})


class _Maker:
    """Makes bodies. Invariant: rule n calls rule m ≤ n only behind a character and beside a way
    that calls nothing, so that no rule begins with itself and every rule ends."""

    def __init__(self, random: Random, names: list[str], tokens: tuple[int, ...]) -> None:
        self._random = random
        self._names = names
        self._tokens = tokens

    def body(self, rule: int) -> Node:
        options = [self._node(rule, 3)]
        for _ in range(self._random.randrange(3)):
            options.append(self._circle(rule))
        self._random.shuffle(options)
        return Alternation(tuple(options))

    def _circle(self, rule: int) -> Node:
        """An option that may come back to this rule or to one before it."""
        called = Reference(self._random.choice(self._names[: rule + 1]))
        guard = self._random.choice([self._leaf(), Repetition(self._leaf(), 1, None)])
        items: list[Node] = [guard, self._node(rule, 1), called, self._node(rule, 1)]
        keep = self._random.choice([[0, 2], [0, 2], [0, 1, 2], [0, 2, 3], [0, 1, 2, 3], [0, 2, 2]])
        body = Concatenation(tuple(items[each] for each in keep))
        rest = Concatenation(tuple(items[each] for each in keep[1:]))
        return self._random.choice([body, Concatenation((guard, Repetition(rest, 0, 1))), body])

    def _node(self, rule: int, depth: int) -> Node:
        kind = self._random.choice("ccaarrle" if depth else "ll")
        if kind == "c":
            return Concatenation(tuple(self._node(rule, depth - 1) for _ in range(self._some())))
        if kind == "a":
            return Alternation(tuple(self._node(rule, depth - 1) for _ in range(self._some())))
        if kind == "r":
            return Repetition(self._node(rule, depth - 1), *self._random.choice(COUNTS))
        if kind == "e" and rule + 1 < len(self._names):
            return Reference(self._random.choice(self._names[rule + 1 :]))
        return self._leaf()

    def _some(self) -> int:
        return self._random.choice([1, 2, 2, 3])

    def _leaf(self) -> Node:
        kind = self._random.choice("lllccct" if self._tokens else "lllccc")
        if kind == "t":
            return Token(self._random.choice(self._tokens), self._random.random() < 0.5)
        if kind == "c":
            return Chars(self._random.choice(CLASSES))
        size = self._random.choice([1, 1, 2, 3])
        return Literal("".join(self._random.choice(LETTERS) for _ in range(size)))
