"""Messages of every kind LangChain knows become dicts for the chat template, text unchanged."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    InvalidToolCall,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from libertai_llm.langchain.messages import Conversation, read_messages

TEXT = "  spaces\nstay \n"


def broken(name: str | None, args: str) -> InvalidToolCall:
    return InvalidToolCall(name=name, args=args, id="1", error="cut off", type="invalid_tool_call")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (SystemMessage(TEXT), {"role": "system", "content": TEXT}),
        (HumanMessage(TEXT), {"role": "user", "content": TEXT}),
        (HumanMessage("x", name="bob"), {"role": "user", "content": "x", "name": "bob"}),
        (AIMessage(TEXT), {"role": "assistant", "content": TEXT}),
        (AIMessageChunk(content=TEXT), {"role": "assistant", "content": TEXT}),
        (AIMessage(content=[]), {"role": "assistant", "content": ""}),
        (ChatMessage(role="critic", content="x"), {"role": "critic", "content": "x"}),
        (FunctionMessage(name="f", content="x"), {"role": "tool", "content": "x", "name": "f"}),
        (
            ToolMessage("x", tool_call_id="1", status="error"),
            {"role": "tool", "content": "x", "tool_call_id": "1"},
        ),
        (
            AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "1"}]),
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "type": "function",
                        "id": "1",
                        "function": {"name": "f", "arguments": {"a": 1}},
                    }
                ],
            },
        ),
        (
            AIMessage("so", invalid_tool_calls=[broken("f", '{"a": '), broken(None, "oops")]),
            {
                "role": "assistant",
                "content": "so\n"
                '<tool_call>\n{"name": "f", "arguments": {"a": \n</tool_call>\n'
                "<tool_call>\noops\n</tool_call>",
            },
        ),
        (
            HumanMessage([{"type": "tool_result", "tool_use_id": "1", "content": "3"}]),
            {"role": "user", "content": "<tool_response>\n3\n</tool_response>"},
        ),
        (
            HumanMessage([{"type": "tool_result", "tool_use_id": "1", "content": ["3", " é"]}]),
            {"role": "user", "content": "<tool_response>\n3 é\n</tool_response>"},
        ),
        (
            HumanMessage([{"type": "text", "text": "a "}, "b", {"type": "text", "text": " c"}]),
            {"role": "user", "content": "a b c"},
        ),
        (
            AIMessage(
                [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "yes"}],
                response_metadata={"output_version": "v1"},
            ),
            {"role": "assistant", "content": "yes"},
        ),
        (
            AIMessage([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}]),
            {"role": "assistant", "content": "yes"},
        ),
    ],
)
def test_each_kind_of_message(message: BaseMessage, expected: dict[str, Any]) -> None:
    """Roles, names, calls and text are kept; what is no text for the model is left out."""
    assert read_messages([message]) == Conversation([expected], [])


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        ({"type": "input_audio", "input_audio": {"data": "aaaa", "format": "wav"}}, "audio"),
        ({"type": "file", "file": {"file_data": "data:application/pdf;base64,aa"}}, "file"),
        ({"type": "hologram"}, "hologram"),
    ],
)
def test_what_is_neither_text_nor_image_is_named(block: dict[str, Any], kind: str) -> None:
    """Other content is an error that says which, never silently left out."""
    with pytest.raises(ValueError, match=f"'{kind}'"):
        read_messages([HumanMessage([{"type": "text", "text": "see"}, block])])


def test_a_message_without_a_role_is_an_error() -> None:
    """A message that no template can place is named."""
    with pytest.raises(ValueError, match="'remove'"):
        read_messages([RemoveMessage(id="1")])
