"""What an answer is held to: the fields `grammar` and `json_schema`.

In: a body and the engine's compiler. Out: a compiled grammar, or none. Compiling takes up to a
second, so bodies are read outside event loops and outside the engine's thread.
"""

from __future__ import annotations

import json
from typing import Any

from libertai_engine.errors import InvalidRequest, NotSupported
from libertai_engine.grammar.compiler import CompiledGrammar, GrammarCompiler
from libertai_engine.wire.coerce import Body, to_bool, to_str


def parse_grammar(body: Body, grammars: GrammarCompiler | None) -> CompiledGrammar | None:
    """The grammar that a body asks for, if any; "" is none, as ever.

    Raises `InvalidRequest` naming the field, also if both are given.
    """
    text = body.get("grammar", to_str, "")
    schema = body.fields.get("json_schema")
    if not text:
        return None if schema is None else compile_schema(body, grammars, "json_schema", schema)
    if schema is not None:
        raise InvalidRequest("`grammar` and `json_schema` exclude each other", field="grammar")
    return _compiler(grammars, "grammar").gbnf(text)


def wants_closing(body: Body, grammar: CompiledGrammar | None, max_tokens: int) -> bool:
    """Whether the answer is to be completed within its limit (`close_grammar`).

    By default JSON is, if there is a limit and a way to complete it is known.
    """
    if grammar is None:
        return False
    is_default = grammar.field != "grammar" and max_tokens > 0
    wish: bool = body.get("close_grammar", to_bool, is_default)
    is_asked = body.fields.get("close_grammar") is not None
    # NOTE: looked for here, where it may take its time, whatever is to become of it.
    return wish and (grammar.completion is not None or is_asked)


def compile_schema(
    body: Body, grammars: GrammarCompiler | None, field: str, schema: Any
) -> CompiledGrammar:
    """The grammar of a schema that came in `field`; `compact_json` leaves no white space in it."""
    is_compact = body.get("compact_json", to_bool, False)
    return _compiler(grammars, field).json_schema(schema, field=field, is_compact=is_compact)


def _compiler(grammars: GrammarCompiler | None, field: str) -> GrammarCompiler:
    if grammars is None:
        raise NotSupported(f"`{field}` is not supported by this server", field=field)
    return grammars


def constraint_settings(grammar: CompiledGrammar | None) -> dict[str, Any]:
    """The fields as they are echoed."""
    if grammar is None or grammar.field == "grammar":
        return {"grammar": grammar.text if grammar else ""}
    return {"grammar": "", "json_schema": json.loads(grammar.text)}
