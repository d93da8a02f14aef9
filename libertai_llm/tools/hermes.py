"""Tools and calls as plain text, for chat templates that know nothing of them.

In: messages as chat templates read them. Out: messages with roles and text alone, as models of the
Hermes kind were taught to read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from libertai_llm.tools.definitions import HERMES

_INTRODUCTION = (
    "# Tools\n\nYou may call functions to help with the question of the user. "
    "Their signatures are within <tools></tools>:\n<tools>\n"
)
_INSTRUCTION = (
    "\n</tools>\n\nFor each call, write a JSON object with the name and the arguments within "
    "<tool_call></tool_call>:\n"
    '<tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call>'
)


def with_tools_told(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The messages, with a first system message that ends with what may be called."""
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    told = f"{_INTRODUCTION}{lines}{_INSTRUCTION}"
    if messages and messages[0].get("role") == "system":
        first, rest = messages[0], messages[1:]
        return [{**first, "content": f"{first['content']}\n\n{told}"}, *rest]
    return [{"role": "system", "content": told}, *messages]


def with_calls_as_text(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The messages, with calls written into the answers that made them, and results as texts."""
    return [_as_text(message) for message in messages]


def call_text(name: str, arguments: Any) -> str:
    """A call as the model writes it; `arguments` is an object, or its JSON text."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    quoted = json.dumps(name, ensure_ascii=False)
    return marked(f'{{"name": {quoted}, "arguments": {text}}}')


def broken_call_text(name: str | None, arguments: str) -> str:
    """A call that could not be made, as far as it was written; without a name, `arguments` is all.

    What the model reads of it is as broken as what it wrote.
    """
    if name is None:
        return marked(arguments)
    return marked(f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {arguments}')


def response_text(content: str) -> str:
    """What a tool answered, as a user's words."""
    return f"<tool_response>\n{content}\n</tool_response>"


def marked(body: str) -> str:
    """What was written of a call, whole or broken, between its marks."""
    return f"{HERMES.opening}\n{body}\n{HERMES.closing}"


def _as_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if message.get("role") == "tool":
        return {"role": "user", "content": response_text(message["content"])}
    if not message.get("tool_calls"):
        return message
    calls = [
        call_text(call["function"]["name"], call["function"]["arguments"])
        for call in message["tool_calls"]
    ]
    content = "\n".join([message["content"], *calls] if message["content"] else calls)
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "content": content}
