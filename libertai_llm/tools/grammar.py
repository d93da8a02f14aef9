"""Tools as a grammar: what an answer may look like, so that no call can be malformed.

In: tools, a choice, perhaps a schema for the answer itself. Out: GBNF text that every server with
`grammar` reads, that of December 2023 too; or None where nothing has to be held to anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from libertai_llm.grammar import GrammarWriter
from libertai_llm.tools.definitions import (
    AUTO,
    HERMES,
    CallSyntax,
    Reasoning,
    Tool,
    ToolChoice,
    named_once,
)

Schema = Mapping[str, Any] | bool
_COMBINATIONS = frozenset({"$ref", "allOf", "anyOf", "oneOf"})


def tool_grammar(
    tools: Sequence[Tool],
    choice: ToolChoice = AUTO,
    *,
    parallel: bool = False,
    response_schema: Schema | None = None,
    reasoning: Reasoning = "none",
    syntax: CallSyntax = HERMES,
) -> str | None:
    """The GBNF of an answer to a request with these tools.

    `auto`: text without a call in it, and perhaps a call at its end; with a `response_schema`,
    either a call or JSON of that schema. `required` and `named`: a call. `none`: text without a
    call in it, or the JSON. `parallel` allows several calls. Reasoning may come first.

    Returns None if any text will do: no tools, no schema. Raises `InvalidOption` for two tools of
    one name, `UnsupportedSchema` for a schema that no grammar can hold an answer to.
    """
    if not tools and response_schema is None:
        return None
    # NOTE: spaced as chat templates write calls, so that an answer comes back letter by letter.
    writer = GrammarWriter(spacing="fixed")
    body = _body(
        writer,
        named_once(tools),
        choice,
        parallel=parallel,
        response_schema=response_schema,
        syntax=syntax,
    )
    before = _reasoning(reasoning, syntax, writer)
    return writer.text(root=writer.add_rule("answer", f"{before} {body}".strip()))


def _body(
    writer: GrammarWriter,
    tools: Sequence[Tool],
    choice: ToolChoice,
    *,
    parallel: bool,
    response_schema: Schema | None,
    syntax: CallSyntax,
) -> str:
    """What an answer is after its reasoning."""
    if choice.mode == "none" or not tools:
        if response_schema is not None:
            return writer.add_schema(response_schema, "response")
        return text_without(syntax.opening, writer)
    named = [tool for tool in tools if choice.name in (None, tool.name)]
    calls = _calls(writer, named, parallel, syntax)
    if choice.mode != "auto":
        return calls
    if response_schema is not None:
        return f"({calls} | {writer.add_schema(response_schema, 'response')})"
    text = text_without(syntax.opening, writer)
    return f"{text} {calls}?"


def _calls(writer: GrammarWriter, tools: Sequence[Tool], parallel: bool, syntax: CallSyntax) -> str:
    """One call, or several, as a rule."""
    kinds = [_call(writer, tool, syntax) for tool in tools]
    call = writer.add_rule("call", " | ".join(kinds))
    if not parallel:
        return call
    return writer.add_rule("calls", f"{call} ({writer.literal(chr(10))} {call})*")


def _call(writer: GrammarWriter, tool: Tool, syntax: CallSyntax) -> str:
    head = f'{syntax.opening}\n{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "arguments": '
    arguments = writer.add_schema(_closed(tool.parameters), f"{tool.name}-arguments")
    tail = f"}}\n{syntax.closing}"
    body = f"{writer.literal(head)} {arguments} {writer.literal(tail)}"
    return writer.add_rule(f"{tool.name}-call", body)


def _closed(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a tool's arguments: an object that has no further keys unless it says so."""
    if _COMBINATIONS & parameters.keys():  # whose keys are named elsewhere
        return {"type": "object", **parameters}
    return {"type": "object", "additionalProperties": False, **parameters}


def _reasoning(reasoning: Reasoning, syntax: CallSyntax, writer: GrammarWriter) -> str:
    """Thoughts before the answer, which begin in it or in the prompt; then white space."""
    if reasoning == "none":
        return ""
    text = text_without(syntax.reasoning_closing, writer)
    rest = f"{text} {writer.literal(syntax.reasoning_closing)} {writer.literal(chr(10))}*"
    if reasoning == "begun":
        return rest
    return f"({writer.literal(syntax.reasoning_opening)} {rest})?"


def text_without(mark: str, writer: GrammarWriter) -> str:
    """A rule for any text that does not contain `mark`.

    A run is the first character of the mark and as much of the rest as follows; the character that
    breaks it off, if it does not begin the next run, goes with what is plain after it. There is
    one way to read a text so, and no recursion. A mark of one character has no run that is text.
    """
    first, rest = mark[0], mark[1:]
    plain = f"[^{_in_class(first)}]*"
    if not rest:
        return writer.add_rule("text", plain)
    run = ""
    for char in reversed(rest):
        breaks = f"[^{_in_class(first)}{_in_class(char)}] {plain}"
        run = f"({breaks} | {writer.literal(char)} {run})?" if run else f"({breaks})?"
    return writer.add_rule("text", f"{plain} ({writer.literal(first)} {run})*")


def _in_class(char: str) -> str:
    """A character as `[...]` has it."""
    return f"\\x{ord(char):02X}" if char in "\\]^-" else char
