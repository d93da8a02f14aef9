"""LangChain messages become the plain dicts that chat templates read.

In: `BaseMessage`s with text in any of LangChain's content formats.
Out: `{"role", "content", …}` dicts whose text is exactly what the messages hold: an earlier answer
must come back letter by letter, or the server cannot reuse what it cached for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolMessage

_ROLES = {
    "human": "user",
    "ai": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
}
# Blocks that carry no text: reasoning is not shown to the model again, calls are in `tool_calls`.
_SILENT = frozenset({"reasoning", "tool_call", "invalid_tool_call", "thinking", "tool_use"})


def template_messages(messages: Iterable[BaseMessage]) -> list[dict[str, Any]]:
    """The messages as a chat template wants them.

    Raises `ValueError` naming the block type for content that is not text (image, audio, file…).
    """
    return [_template_message(message) for message in messages]


def _template_message(message: BaseMessage) -> dict[str, Any]:
    result: dict[str, Any] = {"role": _role(message), "content": _text(message)}
    if message.name:
        result["name"] = message.name
    if isinstance(message, AIMessage) and message.tool_calls:
        result["tool_calls"] = [
            {"type": "function", "function": {"name": call["name"], "arguments": call["args"]}}
            for call in message.tool_calls
        ]
    if isinstance(message, ToolMessage):
        result["tool_call_id"] = message.tool_call_id
    return result


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    role = _ROLES.get(message.type.removesuffix("MessageChunk").lower())
    if role is None:
        raise ValueError(f"a message of type {message.type!r} has no place in a chat prompt")
    return role


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    blocks = cast("list[dict[str, Any]]", message.content_blocks)
    return "".join(_block_text(block) for block in blocks)


def _block_text(block: dict[str, Any]) -> str:
    kind = block["type"]
    if kind == "non_standard":
        block = block["value"]
        kind = block.get("type", kind)
    if kind == "text":
        return str(block["text"])
    if kind in _SILENT:
        return ""
    raise ValueError(f"content blocks of type {kind!r} are not supported: only text is")
