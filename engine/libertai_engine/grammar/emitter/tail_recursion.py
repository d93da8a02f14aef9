"""Rules that end in calls of themselves, as repetitions.

In: the bodies of rules that call each other. Out: what each stands for without a call, or None.

`list ::= item | item "," list` is how GBNF says "items with commas between". A parser that works
through texts of such a rule keeps one open call per item until the last one, and llguidance gives
up after about 2,000. As a repetition it keeps none.

Why the language stays: if in every body the calls of a circle of rules come last only, each body
is a union of pieces A_j·X_j, an optional prefix and the rule it goes on with, and of B, where it
ends without a call:

    X_i = A_i1·X_1 ∪ … ∪ A_in·X_n ∪ B_i

Arden's lemma: the smallest solution of X = A·X ∪ B is A*·B. (A*·B solves it, and by induction over
the number of turns every solution holds Aᵏ·B for all k. A grammar's language is the smallest
solution, as what can be derived is derived in finitely many steps.) Solving for one rule and
putting it into the others, one after the other, leaves no call.

That is right for texts. The masks of an unfinished answer depend on beginnings of texts, too: a
rule without any B stands for no text, but its beginnings can be written without end, and A*·∅ would
lose them. Such circles are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from libertai_engine.grammar.emitter.forest import (
    EMPTY,
    NEVER,
    Call,
    Choice,
    Forest,
    Loop,
    Series,
)

# A circle of n rules is solved in n³ steps, and its solution can have about 4ⁿ parts if written
# without sharing.
LARGEST_CIRCLE = 8

# What a body is a union of: by rule the prefix before its call; by None, what has no call.
Equation: TypeAlias = "dict[int | None, int]"


def solved(forest: Forest, bodies: Mapping[int, int]) -> dict[int, int] | None:
    """What the rules of one circle stand for; None if not all their calls come last."""
    if len(bodies) > LARGEST_CIRCLE:
        return None
    equations: dict[int, Equation] = {}
    for rule, body in bodies.items():
        equation = _Reader(forest, bodies).read(body)
        if equation is None:
            return None
        equations[rule] = equation
    if not any(None in equation for equation in equations.values()):
        return None
    return _back_substituted(forest, _eliminated(forest, equations))


def _eliminated(forest: Forest, equations: Mapping[int, Equation]) -> dict[int, Equation]:
    """Each rule in terms of later ones."""
    done: dict[int, Equation] = {}
    for rule, equation in equations.items():
        calling = _without_earlier(forest, equation, done)
        turns = forest.loop(calling.pop(rule, NEVER), 0, None)
        done[rule] = _prefixed(forest, turns, calling)
    return done


def _without_earlier(forest: Forest, equation: Equation, done: dict[int, Equation]) -> Equation:
    left = dict(equation)
    for earlier, known in done.items():
        prefix = left.pop(earlier, NEVER)
        if prefix != NEVER:
            left = _united(forest, left, _prefixed(forest, prefix, known))
    return left


def _back_substituted(forest: Forest, equations: Mapping[int, Equation]) -> dict[int, int]:
    done: dict[int, int] = {}
    for rule in reversed([*equations]):
        parts: list[int] = []
        for target, part in equations[rule].items():
            parts.append(part if target is None else forest.series([part, done[target]]))
        done[rule] = forest.choice(parts)
    return done


def _prefixed(forest: Forest, prefix: int, equation: Equation) -> Equation:
    return {to: forest.series([prefix, part]) for to, part in equation.items()}


def _united(forest: Forest, *equations: Equation) -> Equation:
    targets = {to: None for equation in equations for to in equation}
    return {
        to: forest.choice([equation[to] for equation in equations if to in equation])
        for to in targets
    }


class _Reader:
    """Reads bodies as equations. Invariant: `_known[node]` is None if a call in it is not last;
    nodes without calls of the circle are not in it.
    """

    def __init__(self, forest: Forest, circle: Iterable[int]) -> None:
        self._forest = forest
        self._circle = sum(1 << rule for rule in circle)
        self._known: dict[int, Equation | None] = {}

    def __contains__(self, node: object) -> bool:
        """Whether there is nothing to learn of a node."""
        return isinstance(node, int) and not self._has_call(node)

    def read(self, body: int) -> Equation | None:
        """None if a call is not last."""
        for node in self._forest.below([body], self):
            self._known[node] = self._equation(node)
        return self._read(body)

    def _read(self, node: int) -> Equation | None:
        return self._known[node] if self._has_call(node) else {None: node}

    def _has_call(self, node: int) -> bool:
        return bool(self._forest.calls(node) & self._circle)

    def _equation(self, node: int) -> Equation | None:
        match self._forest[node]:
            case Call(rule):
                return {rule: EMPTY}
            case Series(items):
                return self._of_series(items)
            case Choice(options):
                parts = [self._read(option) for option in options]
                known = [part for part in parts if part is not None]
                return _united(self._forest, *known) if len(known) == len(parts) else None
            case Loop(item, 0, 1):
                known_item = self._read(item)
                return known_item and _united(self._forest, known_item, {None: EMPTY})
            case _:
                return None

    def _of_series(self, items: tuple[int, ...]) -> Equation | None:
        last = self._read(items[-1])
        if last is None or any(self._has_call(item) for item in items[:-1]):
            return None
        return _prefixed(self._forest, self._forest.series(items[:-1]), last)
