"""What objects and arrays are built with.

In: nothing. Out: the spacing of JSON, the context that a compiler hands down, counts of keywords.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from libertai_llm.gbnf.expressions import Expr, Ref, Rules, Text, optional, seq
from libertai_llm.gbnf.places import Alternative, Place

MAX_COUNT = 5_000


@dataclass(frozen=True, slots=True)
class Spacing:
    """Where JSON's spaces go: behind a comma or colon, and inside of brackets."""

    behind: Expr
    inside: Expr

    def enclosed(self, opening: str, content: Expr, closing: str, *, may_be_empty: bool) -> Expr:
        """The content within brackets."""
        content = seq(content, self.inside)
        middle = optional(content) if may_be_empty else content
        return seq(Text(opening), self.inside, middle, Text(closing))

    @property
    def comma(self) -> Expr:
        return seq(Text(","), self.behind)

    @property
    def colon(self) -> Expr:
        return seq(Text(":"), self.behind)


@dataclass(frozen=True, slots=True)
class Context:
    """What a shape is built with. `value` gives the rule of what satisfies all the schemas."""

    rules: Rules
    spacing: Spacing
    value: Callable[[Sequence[Place], str], Expr]
    any_string: Callable[[], Expr]

    def named(self, expr: Expr, hint: str) -> Ref:
        """A rule of its own for the expression."""
        ref = self.rules.reserve(hint)
        self.rules.define(ref, expr)
        return ref


def json_text(value: object) -> str:
    """A JSON value on one line, with characters as they are."""
    return json.dumps(value, ensure_ascii=False)


def limits(leaves: Alternative, least: str, most: str) -> tuple[int, int | None]:
    """The greatest lower and the least upper count that a pair of keywords gives."""
    low, high = 0, None
    for place in leaves:
        for keyword in (least, most):
            if (place.count(keyword) or 0) > MAX_COUNT:
                raise place.error(f"more than {MAX_COUNT} cannot be counted", keyword)
        low = max(low, place.count(least) or 0)
        upper = place.count(most)
        high = upper if high is None else high if upper is None else min(high, upper)
    return low, high
