"""A grammar as a tree: what the parser makes and the emitter reads.

In: nothing but code points and token ids. Out: frozen nodes. A node stands for a set of texts, or,
where it names tokens, of token sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Literal:
    """Exactly this text; "" is the empty text. May hold surrogates, which nothing matches."""

    text: str


@dataclass(frozen=True, slots=True)
class Chars:
    """One code point out of `ranges`.

    Invariant: the ranges `(first, last)` are sorted, disjoint, do not touch each other and hold no
    surrogates; negation is resolved. Without any range it matches nothing, not even the empty text.
    """

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Token:
    """One token of the vocabulary; if `is_negated`, any other but those that end an answer."""

    token_id: int
    is_negated: bool = False


@dataclass(frozen=True, slots=True)
class Reference:
    """What the rule of this name stands for."""

    name: str


@dataclass(frozen=True, slots=True)
class Concatenation:
    """One item after the other; without any, the empty text."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Alternation:
    """Any one of the options. Invariant: there is at least one."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repetition:
    """`item` from `low` to `high` times; None: any number. Invariant: low ≤ high."""

    item: Node
    low: int
    high: int | None


Node: TypeAlias = Literal | Chars | Token | Reference | Concatenation | Alternation | Repetition


@dataclass(frozen=True, slots=True)
class Grammar:
    """Rules by name. Invariant: `root` and every referenced name has a rule."""

    rules: Mapping[str, Node]
    root: str = "root"
