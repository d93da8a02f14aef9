"""GBNF text, put together from schemas, rules and literals.

In: JSON schemas, bodies of rules in GBNF. Out: the text of a grammar that servers from December
2023 on read: rule names of letters, digits and hyphens, one rule a line, no `{m,n}`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

from libertai_llm.errors import InvalidOption, UnsupportedSchema
from libertai_llm.gbnf import basics
from libertai_llm.gbnf.compiler import Compiler
from libertai_llm.gbnf.expressions import EMPTY, Expr, Ref, Text, quote, references, render
from libertai_llm.gbnf.places import open_document
from libertai_llm.gbnf.shapes import Spacing

SpacingName = Literal["optional", "fixed", "none"]

MAX_BYTES = 100_000
_SPACINGS = {
    "optional": Spacing(behind=Ref("ws"), inside=Ref("ws")),
    "fixed": Spacing(behind=Text(" "), inside=EMPTY),
    "none": Spacing(behind=EMPTY, inside=EMPTY),
}


class GrammarWriter:
    """A grammar in the making.

    `spacing` says where JSON has spaces: "optional" (one may follow a comma, colon or opening
    bracket and precede a closing one), "fixed" (exactly as Python's `json.dumps` writes, so that
    a model chooses nothing but values), "none". `ignore` names schema keywords to pass over, such
    as `uniqueItems`, for which there would be an error.

    Invariant: every rule that a rule names is in the grammar; no name is given twice.
    """

    def __init__(self, *, spacing: SpacingName = "optional", ignore: Collection[str] = ()) -> None:
        if spacing not in _SPACINGS:
            known = ", ".join(_SPACINGS)
            raise InvalidOption(f"`spacing` must be one of {known}", field="spacing")
        self._spacing = _SPACINGS[spacing]
        self._ignore = frozenset([ignore] if isinstance(ignore, str) else ignore)
        self._rules: dict[str, str] = {}
        self._names = {"root", *basics.NAMES, *basics.HELPERS}
        self._numbers: dict[str, int] = {}
        self._parts: dict[Expr, Ref] = {}
        self._size = 0

    def add_schema(self, schema: Mapping[str, Any] | bool, name_hint: str = "value") -> str:
        """A rule for the JSON values that satisfy the schema; returns its name.

        Raises `UnsupportedSchema`, which names the part in question.
        """
        compiler = Compiler(self._spacing, self._new_name)
        found = compiler.compile(open_document(schema, self._ignore), name_hint)
        for name, expr in compiler.rules.items():
            self._put_expr(name, expr)
        self._put_basics(found)
        return found.name

    def add_rule(self, name_hint: str, body: str) -> str:
        """A rule with this GBNF body, one line; returns its name."""
        if "\n" in body or "\r" in body:
            raise InvalidOption("a rule is one line", field="body")
        name = self._new_name(name_hint)
        self._put(name, body)
        return name

    def literal(self, text: str) -> str:
        """GBNF that stands for exactly this text."""
        return quote(text)

    def text(self, root: str) -> str:
        """The whole grammar. `root` is the body of the root rule, such as the name of another."""
        lines = [f"root ::= {root}", *(f"{name} ::= {body}" for name, body in self._rules.items())]
        return "\n".join(lines) + "\n"

    def _new_name(self, hint: str) -> str:
        stem = re.sub(r"[^a-zA-Z0-9]+", "-", hint[:40]).strip("-").lower() or "rule"
        name = stem
        while name in self._names:
            self._numbers[stem] = self._numbers.get(stem, 1) + 1
            name = f"{stem}-{self._numbers[stem]}"
        self._names.add(name)
        return name

    def _put_basics(self, expr: Expr) -> None:
        """The rules that need no schema, as far as the expression uses them."""
        for used in sorted(references(expr)):
            if used not in self._rules and used in (*basics.NAMES, *basics.HELPERS):
                self._put_expr(used, basics.basic(used, self._spacing))

    def _put_expr(self, name: str, expr: Expr) -> None:
        self._rules[name] = ""  # holds its place before the rules that it uses
        self._put(name, render(expr, self._new_rule))
        self._put_basics(expr)

    def _new_rule(self, expr: Expr) -> Ref:
        """A rule for a part of another one, the same for the same part."""
        if expr not in self._parts:
            self._parts[expr] = Ref(self._new_name("part"))
            self._put_expr(self._parts[expr].name, expr)
        return self._parts[expr]

    def _put(self, name: str, body: str) -> None:
        self._rules[name] = body
        self._size += len(name) + len(body.encode()) + len(" ::= \n")
        if self._size > MAX_BYTES:
            raise UnsupportedSchema(f"the grammar would be larger than {MAX_BYTES:,} bytes")
