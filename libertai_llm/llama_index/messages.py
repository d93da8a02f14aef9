"""LlamaIndex messages become the plain dicts that chat templates read.

In: `ChatMessage`s with text, images and earlier tool calls.
Out: `{"role", "content", …}` dicts whose text is exactly what the messages hold: an earlier answer
must come back letter by letter, or the server cannot reuse what it cached for it. An image is a
tag in the text, and itself apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from libertai_llm.album import Album

_ROLES = {
    MessageRole.DEVELOPER: "system",
    MessageRole.FUNCTION: "tool",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}
# Blocks that carry no text: thoughts are not shown to the model again, calls are in `tool_calls`.
_SILENT = (ThinkingBlock, ToolCallBlock, CachePoint)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages as a chat template wants them; `image_data` holds the images that they show."""

    messages: list[dict[str, Any]]
    image_data: list[dict[str, Any]]


def read_messages(messages: Iterable[ChatMessage]) -> Conversation:
    """The messages for the chat template and the server, which stay as they are.

    Raises `ValueError` naming the block type for content that is neither text nor image (audio,
    video, documents), or the address of an image that would have to be fetched.
    """
    album = Album()
    return Conversation([_template_message(each, album) for each in messages], album.image_data)


def _template_message(message: ChatMessage, album: Album) -> dict[str, Any]:
    role = _ROLES.get(message.role, message.role.value)
    result: dict[str, Any] = {"role": role, "content": _text(message.blocks, album)}
    if calls := list(_tool_calls(message)):
        result["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    for name in ("name", "tool_call_id"):
        if isinstance(message.additional_kwargs.get(name), str):
            result[name] = message.additional_kwargs[name]
    return result


def _text(blocks: Sequence[Any], album: Album) -> str:
    """The blocks as one text; a newline between neighbouring texts, as `ChatMessage.content`."""
    parts: list[str] = []
    follows_text = False
    for block in _flat(blocks):
        if isinstance(block, TextBlock):
            parts.append("\n" + block.text if follows_text else block.text)
        else:
            parts.append(album.tag(_base64_of(block)))
        follows_text = isinstance(block, TextBlock)
    return "".join(parts)


def _flat(blocks: Iterable[Any]) -> Iterator[TextBlock | ImageBlock]:
    for block in blocks:
        if isinstance(block, (TextBlock, ImageBlock)):
            yield block
        elif isinstance(block, CitableBlock):
            yield from _flat(block.content)
        elif isinstance(block, CitationBlock):
            yield from _flat([block.cited_content])
        elif not isinstance(block, _SILENT):
            raise ValueError(
                f"content blocks of type {block.block_type!r} are not supported: "
                "only text and images are"
            )


def _base64_of(block: ImageBlock) -> str:
    """The image of an image block, from its bytes, its file or its `data:` address.

    Raises `ValueError` for an image that would have to be fetched.
    """
    address = str(block.url) if block.url else ""
    if block.image is None and not block.path and address:
        if address.startswith("data:image/") and ";base64," in address:
            return address.partition(";base64,")[2]
        raise ValueError(
            f"the image {address[:100]!r} is not in its message: images are not fetched, give "
            "their bytes, a path or a `data:image/…;base64,` address"
        )
    if isinstance(block.image, bytes):
        return block.image.decode()  # NOTE: the block itself has put its bytes into base64.
    path = Path(block.path) if block.path else None
    found = ImageBlock(image=path.read_bytes() if path else block.resolve_image().read())
    assert isinstance(found.image, bytes)
    return found.image.decode()


def _tool_calls(message: ChatMessage) -> Iterator[dict[str, Any]]:
    """The calls of an assistant's message, as `{"name", "arguments"}` with decoded arguments."""
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    for block in blocks:
        yield {"name": block.tool_name, "arguments": _decoded(block.tool_kwargs)}
    if blocks:
        return
    # Messages of other classes have OpenAI's objects or dicts here, with arguments as text.
    for call in message.additional_kwargs.get("tool_calls") or []:
        function = _field(call, "function")
        arguments = _decoded(_field(function, "arguments"))
        yield {"name": _field(function, "name"), "arguments": arguments}


def _field(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)


def _decoded(arguments: Any) -> Any:
    """Arguments as an object; a text that is none stays what it is."""
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        return json.loads(arguments)
    # NOTE: brackets may nest deeper than Python's parser goes.
    except (ValueError, RecursionError):
        return arguments
