"""LangChain's ways to say which tools there are, and what an answer shall be.

In: functions, tools, classes and dicts, as `bind_tools` and calls take them. Out: the options of a
call in the OpenAI API's form, and an `AnswerPlan` made of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel

from libertai_llm.answer_plan import PLAN_OPTIONS, AnswerPlan
from libertai_llm.errors import InvalidOption


def bound_options(
    tools: Sequence[Any],
    tool_choice: Any,
    strict: bool | None,
    parallel_tool_calls: bool | None,
    response_format: Any,
) -> dict[str, Any]:
    """The options that `bind_tools` binds. Raises `InvalidOption` for what cannot be asked for."""
    choice = {
        "tool_choice": tool_choice,
        "parallel_tool_calls": parallel_tool_calls,
        "response_format": None if response_format is None else as_format(response_format),
    }
    given = {name: value for name, value in choice.items() if value is not None}
    options = {"tools": as_definitions(tools, strict), **given}
    AnswerPlan.of(options)
    return options


def plan_of(given: Mapping[str, Any]) -> tuple[AnswerPlan, dict[str, Any]]:
    """What a call says of its answer, and all its other options. Raises `InvalidOption`."""
    own = {name: value for name, value in given.items() if name in PLAN_OPTIONS}
    rest = {name: value for name, value in given.items() if name not in PLAN_OPTIONS}
    if own.get("tools"):
        own["tools"] = as_definitions(own["tools"], None)
    if own.get("response_format") is not None:
        own["response_format"] = as_format(own["response_format"])
    return AnswerPlan.of(own), rest


def as_definitions(tools: Sequence[Any], strict: bool | None) -> list[dict[str, Any]]:
    """Tools in the OpenAI API's form."""
    return [as_definition(tool, strict) for tool in tools]


def as_definition(tool: Any, strict: bool | None) -> dict[str, Any]:
    """One tool in the OpenAI API's form."""
    definition = convert_to_openai_tool(tool, strict=strict)
    arguments = tool.tool_call_schema if isinstance(tool, BaseTool) else tool
    exact = _exact_schema(arguments)
    if exact is None or "function" not in definition:
        return definition
    return {**definition, "function": {**definition["function"], "parameters": exact}}


def as_format(value: Any) -> Mapping[str, Any]:
    """A `response_format`: as it is, or made of a class or a JSON schema."""
    if isinstance(value, Mapping) and value.get("type") in ("text", "json_object", "json_schema"):
        return value
    return schema_format(value, None)


def schema_format(schema: Any, strict: bool | None) -> dict[str, Any]:
    """The `response_format` that asks for JSON of a schema: a class, or a JSON schema."""
    found = json_schema_of(schema)
    named: dict[str, Any] = {"name": str(found.get("title", "answer")), "schema": found}
    if strict is not None:
        named["strict"] = strict
    return {"type": "json_schema", "json_schema": named}


def json_schema_of(schema: Any) -> dict[str, Any]:
    """The JSON schema of a class, or of a dict that is or holds one. Raises `InvalidOption`."""
    schema = titled(schema)
    exact = _exact_schema(schema)
    if exact is not None:
        return {"title": getattr(schema, "__name__", "answer"), **exact}
    try:
        return convert_to_json_schema(schema)
    except (ValueError, TypeError) as error:
        raise InvalidOption(f"no schema: {error}", field="schema") from error


def titled(schema: Any) -> Any:
    """A JSON schema with a title, which LangChain wants of it; anything else as it is.

    NOTE: of the OpenAI API's `{"name": …, "schema": …}`, LangChain would leave the name alone.
    """
    if not isinstance(schema, Mapping):
        return schema
    if "name" in schema and isinstance(schema.get("schema"), Mapping):
        named = {"title": schema["name"], "description": schema.get("description")}
        return {**schema["schema"], **{name: each for name, each in named.items() if each}}
    return schema if _NAMES & schema.keys() else {"title": "answer", **schema}


def _exact_schema(schema: Any) -> dict[str, Any] | None:
    """The JSON schema, if LangChain's conversion would make it looser; else None.

    It leaves nothing of a dict without `properties`, and takes what refers to itself for anything.
    """
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        found = schema.model_json_schema()
        return found if _refers_to_itself(found) else None
    if not isinstance(schema, Mapping) or (_NAMES - {"title"}) & schema.keys():
        return None
    is_lost = "properties" not in schema or _refers_to_itself(schema)
    return dict(schema) if is_lost else None


def _refers_to_itself(schema: Mapping[str, Any]) -> bool:
    parts = schema.get("$defs", {})
    links = {name: set(_REFERENCE.findall(json.dumps(part))) for name, part in parts.items()}
    for _ in links:  # each round goes one reference further
        links = {
            name: found.union(*(links.get(each, ()) for each in found))
            for name, found in links.items()
        }
    return any(name in found for name, found in links.items())


_REFERENCE = re.compile(r'"\$ref": "#/\$defs/([^"/]+)"')
# A dict with one of these is named, or holds a definition that is.
_NAMES = frozenset({"title", "name", "function", "toolSpec"})
