"""JSON arrays that satisfy given schemas.

In: the schemas that hold for one array, and the rules of the items. Out: an expression of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from libertai_llm.gbnf.expressions import NEVER, Expr, optional, repeat, seq
from libertai_llm.gbnf.places import Alternative, Place
from libertai_llm.gbnf.shapes import MAX_COUNT, Context, limits
from libertai_llm.gbnf.values import array_items

# First items within one rule; further ones go on in a rule of their own.
_RUN = 8


def array(leaves: Alternative, context: Context, hint: str) -> Expr:
    """The arrays that satisfy all the schemas."""
    low, high = limits(leaves, "minItems", "maxItems")
    _check_unique(leaves, high)
    if high is not None and high < low:
        return NEVER
    forms = [array_items(place) for place in leaves]
    first = [
        context.value(_items_at(forms, index), f"{hint}-{index}")
        for index in range(_first_count(leaves, forms, high))
    ]
    others = context.value([rest for _, rest in forms if rest], f"{hint}-item")
    content = _content(first, others, low, high, context)
    return context.spacing.enclosed("[", content, "]", may_be_empty=low == 0)


def _first_count(
    leaves: Alternative, forms: Sequence[tuple[list[Place], Place | None]], high: int | None
) -> int:
    count = max((len(first) for first, _ in forms), default=0)
    if count > MAX_COUNT:
        raise leaves[0].error(f"more than {MAX_COUNT} cannot be counted")
    return count if high is None else min(count, high)


def _content(
    first: Sequence[Expr], others: Expr, low: int, high: int | None, context: Context
) -> Expr:
    """The items, at least one of them."""
    comma = context.spacing.comma
    if high == 0:
        return NEVER
    if not first:
        more = repeat(seq(comma, others), max(0, low - 1), None if high is None else high - 1)
        return seq(others, more)
    room = None if high is None else high - len(first)
    content = repeat(seq(comma, others), max(0, low - len(first)), room)
    for index in reversed(range(len(first))):
        content = seq(first[index], content)
        if index % _RUN == _RUN - 1:
            content = context.named(content, "items")
        if index:
            content = seq(comma, content)
            content = content if index < low else optional(content)
    return content


def _items_at(forms: Sequence[tuple[list[Place], Place | None]], index: int) -> list[Place]:
    found = [first[index] if index < len(first) else rest for first, rest in forms]
    return [place for place in found if place]


def _check_unique(leaves: Alternative, high: int | None) -> None:
    for place in leaves:
        if place.flag("uniqueItems") and (high is None or high > 1):
            raise place.error("a grammar cannot tell whether items are unique", "uniqueItems")
