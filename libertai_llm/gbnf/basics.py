"""The rules that need no schema: any value, any text, any number.

In: a name of `NAMES` and the spacing. Out: the expression of that rule.
"""

from __future__ import annotations

from libertai_llm.gbnf.charsets import points, union
from libertai_llm.gbnf.expressions import Expr, Ref, Text, alt, chars, optional, repeat, seq
from libertai_llm.gbnf.numbers import MAX_INTEGER_DIGITS
from libertai_llm.gbnf.shapes import Spacing
from libertai_llm.gbnf.strings import PLAIN

MAX_DECIMALS = 20
NAMES = ("value", "object", "array", "string", "number", "integer", "boolean", "null")
HELPERS = ("ws", "char", "unit", "whole", "digit", "member")

_HEX = chars(union([(48, 57), (65, 70), (97, 102)]))
_DIGIT = Ref("digit")


def basic(name: str, spacing: Spacing) -> Expr:
    """What the rule of this name stands for."""
    if name in ("object", "array"):
        item = Ref("member" if name == "object" else "value")
        more = repeat(seq(spacing.comma, item), 0, None)
        brackets = "{}" if name == "object" else "[]"
        return spacing.enclosed(brackets[0], seq(item, more), brackets[1], may_be_empty=True)
    if name == "member":
        return seq(Ref("string"), spacing.colon, Ref("value"))
    return _FIXED[name]


def _unit() -> Expr:
    """Four hexadecimal digits of a character, or of both halves of a surrogate pair.

    NOTE: one half is no character, and a whole pair counts as one.
    """
    plain = chars(union(points("0123456789"), points("abcefABCEF")))
    high, low = chars(points("89abAB")), chars(points("cdefCDEF"))
    letter = chars(points("dD"))
    return alt(
        seq(plain, _HEX, _HEX, _HEX),
        seq(letter, chars(points("01234567")), _HEX, _HEX),
        seq(letter, high, _HEX, _HEX, Text("\\u"), letter, low, _HEX, _HEX),
    )


_FIXED: dict[str, Expr] = {
    "value": alt(
        *(Ref(name) for name in ("object", "array", "string", "number", "boolean", "null"))
    ),
    "string": seq(Text('"'), repeat(Ref("char"), 0, None), Text('"')),
    "char": alt(
        chars(PLAIN),
        seq(Text("\\"), alt(chars(points('"\\/bfnrt')), seq(Text("u"), Ref("unit")))),
    ),
    "unit": _unit(),
    "integer": seq(optional(Text("-")), Ref("whole")),
    "number": seq(
        optional(Text("-")),
        Ref("whole"),
        optional(seq(Text("."), repeat(_DIGIT, 1, MAX_DECIMALS))),
        optional(seq(chars(points("eE")), optional(chars(points("+-"))), repeat(_DIGIT, 1, 2))),
    ),
    "whole": alt(
        Text("0"), seq(chars(points("123456789")), repeat(_DIGIT, 0, MAX_INTEGER_DIGITS - 1))
    ),
    "digit": chars(points("0123456789")),
    "boolean": alt(Text("true"), Text("false")),
    "null": Text("null"),
    "ws": optional(Text(" ")),
}
