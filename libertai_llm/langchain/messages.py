"""LangChain messages become the plain dicts that chat templates read.

In: `BaseMessage`s with text and images in any of LangChain's content formats.
Out: `{"role", "content", …}` dicts whose text is exactly what the messages hold: an earlier answer
must come back letter by letter, or the server cannot reuse what it cached for it. An image is a
tag in the text, and itself apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    InvalidToolCall,
    ToolMessage,
)

from libertai_llm.album import Album
from libertai_llm.langchain.images import IMAGE_KINDS, base64_of
from libertai_llm.tools.hermes import broken_call_text, response_text

_ROLES = {
    "human": "user",
    "ai": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
}
# Blocks that carry no text: reasoning is not shown to the model again, calls are in `tool_calls`.
# A call that was cut off in a stream stays a chunk there, and is in `invalid_tool_calls` as well.
_SILENT = frozenset(
    {"reasoning", "tool_call", "tool_call_chunk", "invalid_tool_call", "thinking", "tool_use"}
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages as a chat template wants them; `image_data` holds the images that they show."""

    messages: list[dict[str, Any]]
    image_data: list[dict[str, Any]]


def read_messages(messages: Iterable[BaseMessage]) -> Conversation:
    """The messages for the chat template and the server.

    Raises `ValueError` naming the block type for content that is neither text nor image (audio,
    file…), or the address of an image that would have to be fetched.
    """
    album = Album()
    return Conversation([_template_message(each, album) for each in messages], album.image_data)


def _template_message(message: BaseMessage, album: Album) -> dict[str, Any]:
    result: dict[str, Any] = {"role": _role(message), "content": _text(message, album)}
    if message.name:
        result["name"] = message.name
    if isinstance(message, AIMessage):
        result |= _calls(message, result["content"])
    if isinstance(message, ToolMessage):
        result["tool_call_id"] = message.tool_call_id
    return result


def _calls(message: AIMessage, content: str) -> dict[str, Any]:
    """The calls of an answer; those that could not be made are shown as they were written."""
    broken = [_broken_text(call) for call in message.invalid_tool_calls]
    found: dict[str, Any] = {}
    if broken:
        found["content"] = "\n".join([content, *broken] if content else broken)
    if message.tool_calls:
        found["tool_calls"] = [
            {
                "type": "function",
                "id": call["id"],
                "function": {"name": call["name"], "arguments": call["args"]},
            }
            for call in message.tool_calls
        ]
    return found


def _broken_text(call: InvalidToolCall) -> str:
    return broken_call_text(call.get("name") or None, call.get("args") or "")


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    role = _ROLES.get(message.type.removesuffix("MessageChunk").lower())
    if role is None:
        raise ValueError(f"a message of type {message.type!r} has no place in a chat prompt")
    return role


def _text(message: BaseMessage, album: Album) -> str:
    if isinstance(message.content, str):
        return message.content
    blocks = cast("list[dict[str, Any]]", message.content_blocks)
    return "".join(_block_text(block, album) for block in blocks)


def _block_text(block: dict[str, Any], album: Album) -> str:
    kind = block["type"]
    if kind == "non_standard":
        block = block["value"]
        kind = block.get("type", kind)
    if kind == "text":
        return str(block["text"])
    if kind in IMAGE_KINDS:
        return album.tag(base64_of(block))
    if kind in _SILENT:
        return ""
    if kind == "tool_result":
        return response_text(_result_text(block.get("content", ""), album))
    raise ValueError(f"content blocks of type {kind!r} are not supported: only text and images are")


def _result_text(content: Any, album: Album) -> str:
    """What a tool answered, in a block of a user's message."""
    return _text(HumanMessage(content or ""), album)
