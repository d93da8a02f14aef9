"""Group 10: what messages hold reaches the model: images, thoughts, calls, and nothing else."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.llms import ChatMessage, MessageRole, TextBlock
from PIL import Image

from libertai_llm.errors import InvalidOption
from libertai_llm.llama_index import Libertai
from libertai_llm.llama_index.messages import read_messages
from tests.llm.langchain.scripted import ScriptedServer
from tests.llm.llama_index.conftest import MakeLLM


def png(shade: int) -> bytes:
    """A small picture."""
    buffer = io.BytesIO()
    Image.new("L", (2, 2), shade).save(buffer, "PNG")
    return buffer.getvalue()


def contents(*messages: ChatMessage) -> list[str]:
    return [each["content"] for each in read_messages(messages).messages]


def test_roles_are_those_that_templates_know() -> None:
    """All eight of LlamaIndex's, in any order."""
    messages = [ChatMessage("x", role=role) for role in MessageRole]
    read = read_messages(messages).messages
    roles = {m.role.value: t["role"] for m, t in zip(messages, read, strict=True)}
    assert roles == {
        "system": "system",
        "developer": "system",
        "user": "user",
        "assistant": "assistant",
        "function": "tool",
        "tool": "tool",
        "chatbot": "assistant",
        "model": "assistant",
    }


def test_text_stays_letter_by_letter() -> None:
    """An answer that comes back must be what the server has in its cache."""
    text = " leading, {{ braces }}, <|im_end|> \n\n"
    assert contents(ChatMessage(text, role="assistant")) == [text]
    assert contents(ChatMessage([TextBlock(text="a"), TextBlock(text="b")])) == ["a\nb"]
    assert contents(ChatMessage(role="user")) == [""]


def test_what_frameworks_note_on_messages_is_not_said() -> None:
    """Extra keys of a message are no part of the prompt."""
    message = ChatMessage("Hi", role="assistant", additional_kwargs={"slot": 3, "n": {"a": 1}})
    assert read_messages([message]).messages == [{"role": "assistant", "content": "Hi"}]


def test_images_are_numbered_and_sent(server: ScriptedServer, tmp_path: Path) -> None:
    """From bytes, a file, or a data address; the same picture keeps its number."""
    file = tmp_path / "one.png"
    file.write_bytes(png(1))
    address = "data:image/png;base64," + base64.b64encode(png(2)).decode()
    blocks = [
        ImageBlock(image=png(0)),
        TextBlock(text="and"),
        ImageBlock(path=file),
        ImageBlock(url=address),
        ImageBlock(image=base64.b64encode(png(0))),
        ImageBlock(image=io.BytesIO(png(1))),
    ]
    Libertai(base_url=server.url).chat([ChatMessage(role="user", blocks=blocks)])
    (sent,) = server.completions
    assert "[img-0]and[img-1][img-2][img-0][img-1]" in sent["prompt"]
    pictures = [base64.b64encode(png(shade)).decode() for shade in range(3)]
    assert sent["image_data"] == [{"data": data, "id": i} for i, data in enumerate(pictures)]


def test_images_are_not_fetched() -> None:
    """An address is refused by name, before anything goes out."""
    with pytest.raises(ValueError, match=r"example\.org/cat\.png"):
        read_messages([ChatMessage([ImageBlock(url="https://example.org/cat.png")])])


def test_a_model_without_eyes_says_so(make_llm: MakeLLM) -> None:
    """Rather than answering as if it had looked."""
    with pytest.raises(InvalidOption, match="images"):
        make_llm().chat([ChatMessage([ImageBlock(image=png(0))])])


@pytest.mark.parametrize(
    "block",
    [
        AudioBlock(audio=b"RIFF"),
        VideoBlock(video=b"mp4"),
        DocumentBlock(data=b"%PDF-1.4", title="a.pdf"),
    ],
    ids=lambda block: block.block_type,
)
def test_what_cannot_be_shown_is_refused(server: ScriptedServer, block: Any) -> None:
    """By the kind of the block; nothing is sent."""
    with pytest.raises(ValueError, match=block.block_type):
        Libertai(base_url=server.url).chat([ChatMessage([block])])
    assert not server.completions


def test_citations_and_cache_points_are_their_text() -> None:
    """Nested text is read; a mark for other servers' caches is nothing."""
    cited = CitableBlock(title="t", source="s", content="one")
    citation = CitationBlock(
        cited_content="two", source="s", title="t", additional_location_info={}
    )
    point = CachePoint(cache_control=CacheControl(type="ephemeral"))
    message = ChatMessage([cited, point, citation, TextBlock(text="three")])
    assert contents(message) == ["one\ntwo\nthree"]


def test_thoughts_are_not_said_again() -> None:
    """What a model thought before is no part of the next prompt."""
    blocks = [ThinkingBlock(content="hm"), TextBlock(text="Yes.")]
    assert contents(ChatMessage(role="assistant", blocks=blocks)) == ["Yes."]


@pytest.mark.parametrize("arguments", [{"a": 1}, '{"a": 1}'])
def test_earlier_calls_are_shown_with_their_results(arguments: Any) -> None:
    """Arguments as an object or as text; a result names its call; no result is an empty one."""
    call = ToolCallBlock(tool_call_id="c1", tool_name="add", tool_kwargs=arguments)
    said, result = read_messages(
        [
            ChatMessage(role="assistant", blocks=[call]),
            ChatMessage(role="tool", blocks=[], additional_kwargs={"tool_call_id": "c1"}),
        ]
    ).messages
    function = {"name": "add", "arguments": {"a": 1}}
    assert said["tool_calls"] == [{"type": "function", "function": function}]
    assert said["content"] == ""
    assert result == {"role": "tool", "content": "", "tool_call_id": "c1"}


def test_calls_of_other_classes_are_read() -> None:
    """OpenAI's form, in `additional_kwargs`, as older histories have it."""
    calls = [{"id": "c1", "function": {"name": "add", "arguments": '{"a": 1}'}}]
    message = ChatMessage(role="assistant", blocks=[], additional_kwargs={"tool_calls": calls})
    (said,) = read_messages([message]).messages
    function = {"name": "add", "arguments": {"a": 1}}
    assert said["tool_calls"] == [{"type": "function", "function": function}]


def test_arguments_that_are_no_json_stay_text() -> None:
    """Broken ones, and brackets without end."""
    for arguments in ("{", '{"a": ' + "[" * 5000):
        call = ToolCallBlock(tool_call_id="c1", tool_name="add", tool_kwargs=arguments)
        (said,) = read_messages([ChatMessage(role="assistant", blocks=[call])]).messages
        assert said["tool_calls"][0]["function"]["arguments"] == arguments


def test_thoughts_are_told_apart(server: ScriptedServer) -> None:
    """A block of their own, deltas of their own, and no letter of them in the text."""
    server.answer = lambda prompt: "<think>\n3 and 4 make 7.\n</think>\n\nSeven."
    llm = Libertai(base_url=server.url, reasoning=True)
    stream = list(llm.stream_chat([ChatMessage("3 + 4?")]))
    thoughts = "".join(each.additional_kwargs.get("thinking_delta", "") for each in stream)
    assert "".join(each.delta or "" for each in stream) == "Seven."
    for response in (llm.chat([ChatMessage("3 + 4?")]), stream[-1]):
        thinking, text = response.message.blocks
        assert isinstance(thinking, ThinkingBlock) and isinstance(text, TextBlock)
        assert thinking.content == thoughts.strip() == "3 and 4 make 7."
        assert response.message.content == text.text == "Seven."


def test_thoughts_that_are_said_as_well_stay_thoughts(server: ScriptedServer) -> None:
    """An answer in the very words of the thought, or one that begins with them."""
    server.answer = lambda prompt: "<think>Seven</think>Seven"
    llm = Libertai(base_url=server.url, reasoning=True)
    stream = list(llm.stream_chat([ChatMessage("3 + 4?")]))
    for response in (llm.chat([ChatMessage("3 + 4?")]), stream[-1]):
        kinds = [type(block) for block in response.message.blocks]
        assert kinds == [ThinkingBlock, TextBlock]


def test_an_answer_of_thoughts_alone_is_the_answer(server: ScriptedServer) -> None:
    """A model that was done when it had thought has answered; one that was cut off has not."""
    server.answer = lambda prompt: "<think>Seven.</think>"
    llm = Libertai(base_url=server.url, reasoning=True)
    stream = list(llm.stream_chat([ChatMessage("3 + 4?")]))
    assert stream[-1].message.content == "".join(each.delta or "" for each in stream) == "Seven."
    assert llm.chat([ChatMessage("3 + 4?")], max_tokens=10).message.content == ""


def test_a_template_tells_whether_the_model_thinks(server: ScriptedServer) -> None:
    """Thoughts are looked for where there are some, and nowhere else; a call may say so, too."""
    server.answer = lambda prompt: "<think>Hm.</think>Seven."
    question = [ChatMessage("3 + 4?")]
    llm = Libertai(base_url=server.url)
    assert llm.chat(question).message.content == "<think>Hm.</think>Seven."
    assert llm.chat(question, reasoning=True).message.content == "Seven."
    source = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"
    thinking = Libertai(base_url=server.url, chat_template=source)
    assert thinking.chat(question).message.content == "Seven."
    server.answer = lambda prompt: "Hm.</think>Seven."
    begun = Libertai(base_url=server.url, chat_template=source + "<think>\n")
    assert begun.chat(question).message.content == "Seven."
