"""Tools and choices as callers give them."""

from __future__ import annotations

from typing import Any

import pytest

from libertai_llm.answer_plan import AnswerPlan
from libertai_llm.errors import InvalidOption
from libertai_llm.options import CallOptions
from libertai_llm.tools import ParsedAnswer, Tool, ToolChoice

SCHEMA = {"type": "object", "properties": {}}
TOOLS = [Tool("a"), Tool("any"), Tool("b", "B.", SCHEMA)]
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


def test_a_tool_goes_there_and_back() -> None:
    """In the OpenAI API's form, whole or its inner part."""
    for tool in TOOLS:
        assert Tool.from_openai(tool.to_openai()) == tool
        assert Tool.from_openai(tool.to_openai()["function"]) == tool
    assert Tool.from_openai({"name": "a", "parameters": None, "description": None}) == Tool("a")


@pytest.mark.parametrize(
    "definition", [{}, {"name": 3}, {"name": ""}, {"function": "f"}, {"name": "f", "parameters": 3}]
)
def test_what_is_no_tool_is_an_error(definition: dict[str, Any]) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidOption):
        Tool.from_openai(definition)


@pytest.mark.parametrize(
    ("value", "choice"),
    [
        (None, ToolChoice()),
        ("required", ToolChoice("required")),
        ("any", ToolChoice("named", "any")),
        ({"name": "b"}, ToolChoice("named", "b")),
        (ToolChoice("named", "b"), ToolChoice("named", "b")),
        (ToolChoice("none"), ToolChoice("none")),
    ],
)
def test_choices(value: Any, choice: ToolChoice) -> None:
    """A tool's own name wins over a word."""
    assert ToolChoice.of(value, TOOLS) == choice


@pytest.mark.parametrize("value", ["c", 1, 1.5, [], {}, {"function": {}}, {"type": "function"}])
def test_what_is_no_choice_is_an_error(value: Any) -> None:
    """It names the tools that there are; 1 is not True."""
    with pytest.raises(InvalidOption, match="there are: a, any, b"):
        ToolChoice.of(value, TOOLS)


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_object", "schema": SCHEMA}, SCHEMA),
        (FORMAT, SCHEMA),
        ({"type": "json_schema", "schema": SCHEMA}, SCHEMA),
    ],
)
def test_formats(value: Any, schema: Any) -> None:
    """All that the OpenAI API and llama.cpp's server know."""
    assert AnswerPlan.of({"response_format": value}).response_schema == schema


@pytest.mark.parametrize(
    "options",
    [
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": "json"},
        {"tools": "add"},
        {"tools": [3]},
    ],
)
def test_what_is_no_plan_is_an_error(options: dict[str, Any]) -> None:
    """Each names its option."""
    with pytest.raises(InvalidOption) as caught:
        AnswerPlan.of(options)
    assert caught.value.field == next(iter(options))


def test_a_plan_holds_a_call_to_one_thing() -> None:
    """Two schemas, or a grammar beside one, are an error; a `json_schema` is the plan's own."""
    call = CallOptions(options={"json_schema": SCHEMA, "top_k": 1})
    plan, held = AnswerPlan().holding(call)
    assert plan.response_schema == SCHEMA and held.is_closing
    assert set(held.options) == {"grammar", "top_k", "repeat_penalty"}
    with pytest.raises(InvalidOption, match="beside `response_format`"):
        AnswerPlan(response_schema=SCHEMA).holding(call)
    with pytest.raises(InvalidOption, match="`grammar` is given beside"):
        AnswerPlan(tools=(Tool("a"),)).holding(CallOptions(options={"grammar": "x"}))


@pytest.mark.parametrize(
    "plan",
    [
        AnswerPlan(response_schema=SCHEMA),
        *(AnswerPlan(tools=(Tool("a"),), choice=ToolChoice(mode)) for mode in ("auto", "required")),
    ],
)
def test_a_plan_lets_repetitions_pass(plan: AnswerPlan) -> None:
    """Whatever holds the answer; a penalty that was asked for stays."""
    for given, sent in (({}, 1.0), ({"repeat_penalty": None}, 1.0), ({"repeat_penalty": 1.1}, 1.1)):
        held = plan.holding(CallOptions(options=given))[1]
        assert held.options["repeat_penalty"] == sent


def test_a_plain_plan_changes_nothing() -> None:
    """No grammar, no parser, and a text is its own answer."""
    call = CallOptions(options={"grammar": "mine"})
    assert AnswerPlan().holding(call) == (AnswerPlan(), call)
    assert AnswerPlan().parser() is None
    assert AnswerPlan().read("<tool_call>") == ParsedAnswer("<tool_call>")


def test_a_call_that_was_chosen_is_cut_and_not_closed() -> None:
    """Half a command must not look like one; an object that was asked for is better whole."""
    tools = (Tool("a"),)
    closes = [
        AnswerPlan(tools=tools, choice=choice, response_schema=schema).is_closing
        for choice in (ToolChoice(), ToolChoice("required"), ToolChoice("named", "a"))
        for schema in (None, SCHEMA)
    ]
    assert closes == [False, False, False, False, True, True]
    assert AnswerPlan(tools=tools, choice=ToolChoice("none"), response_schema=SCHEMA).is_closing
