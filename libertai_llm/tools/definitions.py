"""What a model may call: tools, which of them it must, and how a call is written.

In: definitions in the OpenAI API's form, and the usual ways to name a choice. Out: frozen
dataclasses; `InvalidOption` for what is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from libertai_llm.errors import InvalidOption

Mode = Literal["none", "auto", "required", "named"]
Reasoning = Literal["none", "optional", "begun"]
"""Whether reasoning comes before an answer: never, perhaps, or the prompt has opened it already."""

_MODES: dict[Any, Mode] = {
    None: "auto",
    "auto": "auto",
    False: "auto",
    "none": "none",
    True: "required",
    "any": "required",
    "required": "required",
}
_NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: dict(_NO_ARGUMENTS))

    @classmethod
    def from_openai(cls, definition: Mapping[str, Any]) -> Tool:
        """From `{"type": "function", "function": {…}}`, or its inner part alone.

        Raises `InvalidOption` if it has no name, or its parameters are no schema.
        """
        function = definition.get("function", definition)
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name:
            raise InvalidOption("a tool has no name", field="tools")
        parameters = function.get("parameters") or _NO_ARGUMENTS
        if not isinstance(parameters, Mapping):
            raise InvalidOption(f"the parameters of tool `{name}` are no schema", field="tools")
        return cls(name, str(function.get("description") or ""), dict(parameters))

    def to_openai(self) -> dict[str, Any]:
        """`{"type": "function", "function": {…}}`, as chat templates read it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether tools may (`auto`), must (`required`, `named`) or must not (`none`) be called.

    Invariant: `name` is set for `named` alone.
    """

    mode: Mode = "auto"
    name: str | None = None

    @classmethod
    def of(cls, value: Any, tools: Iterable[Tool]) -> ToolChoice:
        """From None, a boolean, "auto", "none", "any", "required", a tool's name, or an object.

        The object is the OpenAI API's `{"type": "function", "function": {"name": …}}`, or
        `{"type": "tool" | "any" | "auto" | "none", "name": …}`. Raises `InvalidOption` for anything
        else, and for a tool that is not among `tools`.
        """
        if isinstance(value, ToolChoice):
            value = value.name or value.mode
        if isinstance(value, Mapping):
            value = _named_in(value)
        names = [tool.name for tool in tools]
        # NOTE: a tool may be called "any"; then its name wins.
        if isinstance(value, str) and value in names:
            return cls("named", value)
        if isinstance(value, str | bool | None) and value in _MODES:
            return cls(_MODES[value])
        known = ", ".join(names) or "none"
        raise InvalidOption(
            f"tool_choice {value!r} is no tool (there are: {known})", field="tool_choice"
        )


AUTO = ToolChoice()


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """The marks around a call, and around reasoning. The default is Hermes', and of many others.

    Invariant: a mark's first character does not come again in it, which lets a regular expression
    say "any text without this mark".
    """

    opening: str = "<tool_call>"
    closing: str = "</tool_call>"
    reasoning_opening: str = "<think>"
    reasoning_closing: str = "</think>"

    def __post_init__(self) -> None:
        marks = (self.opening, self.closing, self.reasoning_opening, self.reasoning_closing)
        for mark in marks:
            if not mark or mark[0] in mark[1:]:
                raise InvalidOption(f"{mark!r} cannot be a mark", field="syntax")


HERMES = CallSyntax()


def named_once(tools: Sequence[Tool]) -> Sequence[Tool]:
    """The tools. Raises `InvalidOption` if two have one name."""
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidOption(f"two tools are named `{twice}`", field="tools")
    return tools


def _named_in(value: Mapping[str, Any]) -> Any:
    function = value.get("function")
    if isinstance(function, Mapping):
        return function.get("name") or ""
    return value.get("name") or value.get("type") or ""
