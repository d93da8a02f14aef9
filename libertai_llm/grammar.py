"""Grammars that hold an answer to JSON: GBNF text for `complete(…, grammar=…)`.

In: JSON schemas, as pydantic's `model_json_schema()` or a tool's parameters are. Out: GBNF text,
which servers read from December 2023 on. Nothing is sent, and nothing beyond the standard library
is needed.

The grammar never allows what the schema forbids: what cannot be expressed raises
`UnsupportedSchema`, which names the part in question (`ignore` passes over a keyword that may be
looser). It is narrower than the schema where that helps a model:

* properties come in the schema's order, and there are none that the schema does not name unless
  `additionalProperties` allows them, or the schema is about no property at all;
* a schema without `type` means the type that its keywords speak about;
* at most one space where JSON may have any;
* a listed value, a property's name and the text of a `pattern` or `format` is written in one way,
  other texts with any escapes but halves of surrogate pairs;
* whole numbers have no point or exponent and, without larger bounds, at most 20 digits; numbers
  have at most 20 digits before and behind the point and 2 in the exponent, those with bounds at
  most 15 digits and no exponent;
* `format` holds for the names that the specification knows, others are remarks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from libertai_llm.errors import UnsupportedSchema
from libertai_llm.gbnf.writer import GrammarWriter, SpacingName

__all__ = ["GrammarWriter", "UnsupportedSchema", "json_grammar", "json_schema_grammar"]


def json_schema_grammar(
    schema: Mapping[str, Any] | bool,
    *,
    spacing: SpacingName = "optional",
    ignore: Collection[str] = (),
) -> str:
    """GBNF text whose root is one JSON value that satisfies the schema.

    `spacing`: "optional", one space may stand where Python's `json.dumps` has one and inside of
    brackets; "fixed", just as `json.dumps` writes; "none". `ignore` names keywords to pass over.
    Raises `UnsupportedSchema`.
    """
    writer = GrammarWriter(spacing=spacing, ignore=ignore)
    return writer.text(writer.add_schema(schema, "answer"))


def json_grammar(
    kind: Literal["object", "array", "value"] = "object", *, spacing: SpacingName = "optional"
) -> str:
    """GBNF text whose root is any JSON object, array or value."""
    return json_schema_grammar({} if kind == "value" else {"type": kind}, spacing=spacing)
