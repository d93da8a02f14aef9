"""What an answer has to be, as a call asks for it: tools, a choice, a format.

In: the OpenAI API's `tools`, `tool_choice`, `parallel_tool_calls` and `response_format`. Out: an
`AnswerPlan`: what the chat template is told, the grammar, and the parser that reads the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from libertai_llm.errors import InvalidOption
from libertai_llm.options import CallOptions
from libertai_llm.tools import (
    HERMES,
    CallSyntax,
    ParsedAnswer,
    Reasoning,
    Schema,
    Tool,
    ToolCallParser,
    ToolChoice,
    parse_answer,
    tool_grammar,
)

PLAN_OPTIONS = frozenset({"tools", "tool_choice", "parallel_tool_calls", "response_format"})
"""The options of a call that `AnswerPlan.of` reads."""

_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPlan:
    """How an answer is asked for and read. The default: text, and nothing else.

    Invariant: `choice` names one of `tools`, if it names one. `reasoning` is the same for the
    grammar and the parser of one answer.
    """

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice()
    parallel: bool = False
    response_schema: Schema | None = None
    reasoning: Reasoning = "none"
    syntax: CallSyntax = HERMES

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> AnswerPlan:
        """From a call's options, of which only `PLAN_OPTIONS` count; None is not given.

        Raises `InvalidOption` for tools, a choice or a format that are none.
        """
        definitions = options.get("tools") or ()
        if not isinstance(definitions, Sequence) or isinstance(definitions, str):
            raise InvalidOption("`tools` must be a list", field="tools")
        tools = tuple(_tool(each) for each in definitions)
        return cls(
            tools=tools,
            choice=ToolChoice.of(options.get("tool_choice"), tools),
            parallel=bool(options.get("parallel_tool_calls")),
            response_schema=_schema_of(options.get("response_format")),
        )

    @property
    def definitions(self) -> list[dict[str, Any]]:
        """The tools as a chat template reads them."""
        return [tool.to_openai() for tool in self.tools]

    @property
    def may_call(self) -> bool:
        """Whether a call can be in the answer."""
        return bool(self.tools) and self.choice.mode != "none"

    @property
    def is_plain(self) -> bool:
        """Whether the answer is text that needs no parser."""
        return not self.may_call and self.reasoning == "none"

    @property
    def is_closing(self) -> bool:
        """Whether the answer is one piece of JSON, which is better ended than cut off.

        NOTE: not so a call that the model chose to make: half a command must not look like one.
        """
        if self.may_call:
            return self.choice.mode == "named"
        return self.response_schema is not None

    def holding(self, call: CallOptions) -> tuple[AnswerPlan, CallOptions]:
        """This plan and a call that is held to it; the call's own `json_schema` is the plan's.

        With a grammar of the plan, tools left to the model's choice included, repetitions are not
        penalised unless the call says so; a user's own `grammar` changes no other option.

        Raises `InvalidOption` if there are two schemas, or a `grammar` beside one or beside tools.
        """
        plan = self
        schema = call.options.get("json_schema")
        if schema is not None:
            if self.response_schema is not None:
                raise InvalidOption("`json_schema` beside `response_format`", field="json_schema")
            plan = replace(self, response_schema=schema)
            rest = {name: each for name, each in call.options.items() if name != "json_schema"}
            call = replace(call, options=rest)
        return plan, call.held_to(plan.grammar(), is_closing=plan.is_closing)

    def read(self, text: str) -> ParsedAnswer:
        """A whole answer taken apart."""
        if self.is_plain:
            return ParsedAnswer(content=text)
        return parse_answer(text, **self._reading)

    def grammar(self) -> str | None:
        """GBNF for the answer, or None. Raises `UnsupportedSchema`."""
        return tool_grammar(
            self.tools,
            self.choice,
            parallel=self.parallel,
            response_schema=self.response_schema,
            reasoning=self.reasoning,
            syntax=self.syntax,
        )

    def parser(self) -> ToolCallParser | None:
        """A parser for one answer, if it needs one."""
        if self.is_plain:
            return None
        return ToolCallParser(**self._reading)

    @property
    def _reading(self) -> dict[str, Any]:
        """How an answer is read: JSON may speak of a call, and makes none."""
        return {
            "calls": self.may_call,
            "may_be_json": self.response_schema is not None,
            "reasoning": self.reasoning,
            "syntax": self.syntax,
        }


def _tool(definition: Any) -> Tool:
    if isinstance(definition, Tool):
        return definition
    if isinstance(definition, Mapping):
        return Tool.from_openai(definition)
    raise InvalidOption(f"{definition!r} is no definition of a tool", field="tools")


def _schema_of(value: Any) -> Schema | None:
    """The schema in a `response_format`, or that of any object; None for text."""
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        schema = value.get("schema", _ANY_OBJECT)
    elif kind == "json_schema":
        named = value.get("json_schema")
        schema = named.get("schema") if isinstance(named, Mapping) else value.get("schema")
    else:
        schema = None
    if isinstance(schema, Mapping | bool):
        return schema
    raise InvalidOption(
        '`response_format` must be {"type": "text"}, {"type": "json_object"}, or '
        '{"type": "json_schema", "json_schema": {"schema": …}}',
        field="response_format",
    )
