"""What a rule may consist of, and its GBNF text for a parser of December 2023.

In: nodes, made by the functions below, which keep them small. Out: GBNF text. That parser has no
`{m,n}`, no `.`, and reads a newline as the end of a rule, so counts are written out as nested
options and each rule is one line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from libertai_llm.gbnf.charsets import LAST, Ranges, complement, union

# Items of a counted repetition within one rule; more of them go on in a rule of their own, which
# bounds the nesting.
_RUN = 24
# What is repeated a number of times gets a name unless it is as short as one.
_SHORT = 8


@dataclass(frozen=True, slots=True)
class Text:
    """Exactly this text; "" is the empty text. Invariant: it holds no surrogates."""

    text: str


@dataclass(frozen=True, slots=True)
class Chars:
    """One code point out of `ranges`. Invariant: there is at least one."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Ref:
    """What the rule of this name stands for."""

    name: str


@dataclass(frozen=True, slots=True)
class Seq:
    """One after the other. Invariant: at least two items, none is a `Seq`."""

    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Alt:
    """Any one of the options, none an `Alt`. Without options it stands for nothing at all."""

    options: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`item` from `low` to `high` times; None: any number. Invariant: low ≤ high."""

    item: Expr
    low: int
    high: int | None


Expr: TypeAlias = Text | Chars | Ref | Seq | Alt | Repeat
NewRule: TypeAlias = Callable[[Expr], Ref]


class Rules(Protocol):
    """Where rules are put that may refer to each other, and to themselves."""

    def reserve(self, hint: str) -> Ref:
        """A rule that is still to be defined."""

    def define(self, ref: Ref, expr: Expr) -> None:
        """Say what a reserved rule stands for."""


EMPTY = Text("")
NEVER = Alt(())


def chars(ranges: Ranges) -> Expr:
    """One of these; `NEVER` if there is none, a `Text` if there is one."""
    if not ranges:
        return NEVER
    first, last = ranges[0]
    return Text(chr(first)) if len(ranges) == 1 and first == last else Chars(ranges)


def seq(*items: Expr) -> Expr:
    """The items one after the other, neighbouring texts joined."""
    flat: list[Expr] = []
    for item in items:
        for each in item.items if isinstance(item, Seq) else (item,):
            if each == NEVER:
                return NEVER
            before = flat[-1] if flat else None
            if isinstance(each, Text) and isinstance(before, Text):
                flat[-1] = Text(before.text + each.text)
            elif each != EMPTY:
                flat.append(each)
    return flat[0] if len(flat) == 1 else Seq(tuple(flat)) if flat else EMPTY


def alt(*options: Expr) -> Expr:
    """Any of the options, each once."""
    unique: dict[Expr, None] = {}
    for item in options:
        unique.update(dict.fromkeys(item.options if isinstance(item, Alt) else [item]))
    return next(iter(unique)) if len(unique) == 1 else Alt(tuple(unique))


def repeat(item: Expr, low: int, high: int | None) -> Expr:
    """The item from `low` to `high` times."""
    if high == 0 or item == EMPTY or (item == NEVER and low == 0):
        return EMPTY
    if item == NEVER or (low, high) == (1, 1):
        return item
    return Repeat(item, low, high)


def optional(item: Expr) -> Expr:
    """The item, or nothing."""
    return repeat(item, 0, 1)


def references(expr: Expr) -> set[str]:
    """The names of the rules that it names."""
    found: set[str] = set()
    queue = [expr]
    while queue:
        each = queue.pop()
        if isinstance(each, Ref):
            found.add(each.name)
        queue.extend(children(each))
    return found


def children(expr: Expr) -> tuple[Expr, ...]:
    """The parts that it is made of."""
    if isinstance(expr, Seq):
        return expr.items
    if isinstance(expr, Alt):
        return expr.options
    return (expr.item,) if isinstance(expr, Repeat) else ()


def render(expr: Expr, new_rule: NewRule) -> str:
    """The GBNF text of a rule's body. `new_rule` takes in what needs a rule of its own."""
    if isinstance(expr, Alt):
        return " | ".join(_render_sequence(option, new_rule) for option in expr.options)
    return _render_sequence(expr, new_rule)


def _render_sequence(expr: Expr, new_rule: NewRule) -> str:
    items = expr.items if isinstance(expr, Seq) else (expr,)
    return " ".join(_render_item(item, new_rule) for item in items)


def _render_item(expr: Expr, new_rule: NewRule) -> str:
    if isinstance(expr, Text):
        return quote(expr.text)
    if isinstance(expr, Chars):
        return char_class(expr.ranges)
    if isinstance(expr, Ref):
        return expr.name
    if isinstance(expr, Repeat):
        return _render_repeat(expr, new_rule)
    return f"({render(expr, new_rule)})"


def _render_repeat(expr: Repeat, new_rule: NewRule) -> str:
    item, low, high = expr.item, expr.low, expr.high
    item_text = _render_item(item, new_rule)
    if (low, high) in _MARKS:
        return item_text + _MARKS[low, high]
    if len(item_text) > _SHORT:
        item = new_rule(item)
    several = _exactly(item, low, new_rule)
    rest = repeat(item, 0, None) if high is None else _up_to(item, high - low, new_rule)
    return _render_sequence(seq(several, rest), new_rule)


_MARKS: dict[tuple[int, int | None], str] = {(0, 1): "?", (0, None): "*", (1, None): "+"}


def _exactly(item: Expr, count: int, new_rule: NewRule) -> Expr:
    blocks, rest = divmod(count, _RUN)
    several = EMPTY if not blocks else _exactly(new_rule(Seq((item,) * _RUN)), blocks, new_rule)
    return seq(several, *[item] * rest)


def _up_to(item: Expr, count: int, new_rule: NewRule) -> Expr:
    """`(x (x x?)?)?`: there is one way only to read a text with it, unlike `x? x? x?`.

    NOTE: the server of December 2023 carries every way on and so takes time exponential in them.
    """
    found: Expr = EMPTY
    for done in range(1, count + 1):
        found = optional(seq(item, found))
        # Runs are counted from the end, so that every text of that item shares them.
        if done % _RUN == 0 and done < count:
            found = new_rule(found)
    return found


def quote(text: str) -> str:
    """A GBNF literal of this text."""
    return '"' + "".join(_escape(ord(each), '"\\') for each in text) + '"'


def char_class(ranges: Ranges) -> str:
    """A GBNF character class of these code points.

    NOTE: the server of December 2023 refuses whole lead bytes when a negated class names a
    character beyond ASCII, so only ASCII is written negated.
    """
    others = complement(ranges)
    if ranges[-1][1] == LAST and others and others[-1][1] < 0x80:
        return f"[^{_class_body(others)}]"
    # Surrogates are in no text, so the gap that they leave needs not be written.
    joined = union(ranges)
    if (0xD7FF in (last for _, last in joined)) and (0xE000 in (first for first, _ in joined)):
        at = next(index for index, each in enumerate(joined) if each[1] == 0xD7FF)
        joined = (*joined[:at], (joined[at][0], joined[at + 1][1]), *joined[at + 2 :])
    return f"[{_class_body(joined)}]"


def _class_body(ranges: Ranges) -> str:
    parts = []
    for first, last in ranges:
        parts.append(_escape(first, "\\[]^-"))
        if last > first:
            parts.append(("-" if last > first + 1 else "") + _escape(last, "\\[]^-"))
    return "".join(parts)


def _escape(code: int, special: str) -> str:
    char = chr(code)
    if char in special:
        return "\\" + char if char in '\\"[]' else f"\\x{code:02X}"
    if char in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[char]
    if char.isprintable():
        return char
    if code < 0x100:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
