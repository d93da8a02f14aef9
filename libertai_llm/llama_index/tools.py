"""LlamaIndex's tools and calls, and the client's.

In: `BaseTool`s and a choice; then `ChatResponse`s. Out: the arguments of a chat with tools, and the
calls in its answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools.types import BaseTool
from pydantic_core import from_json

from libertai_llm.errors import LibertaiError


class NoToolCall(LibertaiError, ValueError):
    """There is no call in an answer that had to have one. `partial_text` is what was said."""


def chat_arguments(
    tools: Sequence[BaseTool],
    user_msg: str | ChatMessage | None,
    chat_history: Sequence[ChatMessage] | None,
    *,
    choice: Any,
    is_parallel: bool,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The arguments of `chat` for a chat with tools. The history stays as it is."""
    said = [ChatMessage(user_msg)] if isinstance(user_msg, str) else [user_msg] if user_msg else []
    arguments = {"messages": [*(chat_history or ()), *said], **options}
    if not tools:
        return arguments
    return arguments | {
        "tools": [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools],
        "tool_choice": choice,
        "parallel_tool_calls": is_parallel,
    }


def selections_of(response: ChatResponse, *, is_required: bool) -> list[ToolSelection]:
    """The calls of an answer, of an unfinished one as far as they came.

    Raises `NoToolCall` if there is none and one is required.
    """
    calls = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
    if not calls and is_required:
        raise _missing(response)
    return [
        ToolSelection(
            tool_id=call.tool_call_id or "",
            tool_name=call.tool_name,
            tool_kwargs=_arguments(call.tool_kwargs),
        )
        for call in calls
    ]


def with_one_call(response: ChatResponse) -> ChatResponse:
    """The response with its first call only."""
    blocks = response.message.blocks
    first = next((block for block in blocks if isinstance(block, ToolCallBlock)), None)
    kept = [block for block in blocks if block is first or not isinstance(block, ToolCallBlock)]
    if len(kept) == len(blocks):
        return response
    message = response.message.model_copy(update={"blocks": kept})
    return response.model_copy(update={"message": message})


def makes_an_object(tools: Sequence[BaseTool]) -> bool:
    """Whether the only tool is the one that LlamaIndex makes of a class, to get an object."""
    function = getattr(tools[0], "real_fn", None) if len(tools) == 1 else None
    return str(getattr(function, "__qualname__", "")).startswith("get_function_tool.<locals>")


def streamed(response: ChatResponse, *, parallel: bool, mirrored: bool) -> ChatResponse:
    """A chunk as `chat_with_tools` would end it: with one call unless several are asked for."""
    cut = response if parallel else with_one_call(response)
    return with_calls_mirrored(cut) if mirrored else cut


def with_calls_mirrored(response: ChatResponse) -> ChatResponse:
    """The response with its calls in `additional_kwargs` as well.

    NOTE: LlamaIndex's reader of streamed objects looks nowhere else.
    """
    calls = [
        {"id": each.tool_id, "function": {"name": each.tool_name, "arguments": each.tool_kwargs}}
        for each in selections_of(response, is_required=False)
    ]
    if calls:
        response.message.additional_kwargs["tool_calls"] = calls
    return response


def _arguments(told: dict[str, Any] | str) -> dict[str, Any]:
    """The arguments as an object; of a text that is not whole yet, what can be read."""
    if not isinstance(told, str):
        return told
    try:
        # NOTE: LlamaIndex's own reader makes null of an unfinished text, and recurses.
        found = from_json(told, allow_partial="trailing-strings")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _missing(response: ChatResponse) -> NoToolCall:
    broken = response.additional_kwargs.get("invalid_tool_calls") or []
    reason = f"its call is broken ({broken[0]['reason']})" if broken else "it called no tool"
    error = NoToolCall(f"the model was to call a tool, but {reason}")
    error.partial_text = broken[0]["text"] if broken else response.message.content or ""
    return error
