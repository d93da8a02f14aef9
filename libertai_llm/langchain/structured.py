"""Structured output: chains whose answers are objects, for chat models and for plain LLMs.

In: a model, and a schema as a pydantic class, TypedDict or JSON schema. Out: a chain of the model,
held to the schema by a grammar, and a parser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough

from libertai_llm.errors import InvalidOption
from libertai_llm.langchain.parsers import ArgumentsParser, JsonParser, ObjectParser, object_class
from libertai_llm.langchain.tools import (
    as_definition,
    as_definitions,
    json_schema_of,
    schema_format,
    titled,
)
from libertai_llm.options import CallOptions, split_options
from libertai_llm.tools import Tool, ToolChoice, tool_grammar

Method = Literal["json_schema", "function_calling", "json_mode"]
_METHODS = ("json_schema", "function_calling", "json_mode")


def structured_chat(
    model: BaseChatModel,
    schema: Mapping[str, Any] | type | None,
    *,
    method: Method,
    include_raw: bool,
    strict: bool | None,
    tools: Sequence[Any] | None,
    options: Mapping[str, Any],
) -> Runnable[Any, Any]:
    """A chat model whose answers are objects. Raises `InvalidOption` for what cannot be asked."""
    _check(schema, method, options)
    bound = dict(options)
    if schema is not None:
        asked = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
        bound["ls_structured_output_format"] = asked
    target = object_class(schema)
    parser: ObjectParser
    if method == "function_calling":
        definition = as_definition(titled(schema), strict)
        name = definition["function"]["name"]
        bound |= {"tools": [*as_definitions(tools or [], strict), definition]}
        bound |= {"tool_choice": "required" if tools else name, "parallel_tool_calls": False}
        parser = ArgumentsParser(target=target, call_name=name, may_call=bool(tools))
    else:
        bound["response_format"] = _format(schema, method, strict)
        if tools:
            bound["tools"] = as_definitions(tools, strict)
        parser = JsonParser(target=target, may_call=bool(tools))
    return _chain(model.bind(**bound), parser, include_raw)


def structured_llm(
    model: BaseLLM,
    schema: Mapping[str, Any] | type | None,
    *,
    method: Method,
    include_raw: bool,
    options: Mapping[str, Any],
) -> Runnable[Any, Any]:
    """A plain LLM whose completions are objects. Raises `InvalidOption` as `structured_chat`."""
    _check(schema, method, options)
    target = object_class(schema)
    given = split_options(options)[0]
    parser: ObjectParser
    if method == "function_calling":
        tool = Tool.from_openai(as_definition(titled(schema), None))
        grammar = tool_grammar([tool], ToolChoice("named", tool.name))
        parser = ArgumentsParser(target=target, call_name=tool.name, is_text=True)
        held = CallOptions(options=given).held_to(grammar).options
        return _chain(model.bind(**held), parser, include_raw)
    found = {"type": "object"} if schema is None else json_schema_of(schema)
    return _chain(model.bind(json_schema=found, **given), JsonParser(target=target), include_raw)


def _format(schema: Any, method: Method, strict: bool | None) -> dict[str, Any]:
    if method == "json_schema":
        return schema_format(schema, strict)
    if schema is None:
        return {"type": "json_object"}
    return {"type": "json_object", "schema": json_schema_of(schema)}


def _check(schema: Any, method: str, options: Mapping[str, Any]) -> None:
    if method not in _METHODS:
        raise InvalidOption(f"method {method!r} is none of {', '.join(_METHODS)}", field="method")
    if schema is None and method != "json_mode":
        raise InvalidOption(f"`{method}` needs a schema", field="schema")
    _, unknown = split_options(options)
    if unknown:
        raise InvalidOption(f"unknown argument `{next(iter(unknown))}`", field=next(iter(unknown)))


def _chain(
    model: Runnable[Any, Any], parser: ObjectParser, include_raw: bool
) -> Runnable[Any, Any]:
    """The model and the parser; with `include_raw` an answer that is none is told, not raised."""
    if not include_raw:
        return model | parser
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=model) | parsed.with_fallbacks([failed], exception_key="parsing_error")
