"""Images in messages: every format LangChain knows, one numbering, and a model that sees them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_llm.errors import InvalidOption
from libertai_llm.langchain import ChatLibertai, LibertaiLLM
from libertai_llm.langchain.messages import read_messages
from tests.engine.serving import running
from tests.fake_vision import (
    GREEDY,
    LLAVA_TOKENS,
    base64_of,
    encode,
    image_data,
    picture,
    save_vision_model,
)
from tests.llm.langchain.scripted import ScriptedServer

A, B = "aGVsbG8=", "d29ybGQ="
OPTIONS = {**GREEDY, "max_tokens": 8}


def image(data: str) -> dict[str, Any]:
    return {"type": "image", "base64": data, "mime_type": "image/png"}


FORMATS: dict[str, dict[str, Any]] = {
    "openai": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{A}"}},
    "openai plain": {"type": "image_url", "image_url": f"data:image/png;base64,{A}"},
    "openai responses": {"type": "input_image", "image_url": f"data:image/webp;base64,{A}"},
    "v0": {"type": "image", "source_type": "base64", "data": A, "mime_type": "image/png"},
    "v1": image(A),
    "v1 address": {"type": "image", "url": f"data:image/jpeg;base64,{A}"},
    "anthropic": {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": A},
    },
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_an_image(name: str) -> None:
    """The tag stands where the block stood, the data goes beside the prompt."""
    message = HumanMessage(["What is ", FORMATS[name], "?"])
    conversation = read_messages([message])
    assert conversation.messages == [{"role": "user", "content": "What is [img-0]?"}]
    assert conversation.image_data == [{"data": A, "id": 0}]


@pytest.mark.parametrize("name", FORMATS)
def test_a_tool_may_answer_with_an_image(name: str) -> None:
    """In a message of its own, or in a block of the user's."""
    block = {"type": "tool_result", "tool_use_id": "1", "content": [FORMATS[name]]}
    for message in (ToolMessage([FORMATS[name]], tool_call_id="1"), HumanMessage([block])):
        conversation = read_messages([message])
        assert "[img-0]" in conversation.messages[0]["content"]
        assert conversation.image_data == [{"data": A, "id": 0}]


def test_images_are_numbered_as_they_appear() -> None:
    """Over all messages; the same image keeps its number, so prompts of turns begin alike."""
    talk: list[BaseMessage] = [
        HumanMessage(["one ", image(B), " two ", image(A)]),
        AIMessage("They differ."),
        HumanMessage(["and ", image(B)]),
        ToolMessage([image("bmV3")], tool_call_id="1"),
    ]
    conversation = read_messages(talk)
    texts = [message["content"] for message in conversation.messages]
    assert texts == ["one [img-0] two [img-1]", "They differ.", "and [img-0]", "[img-2]"]
    assert conversation.image_data == [
        {"data": B, "id": 0},
        {"data": A, "id": 1},
        {"data": "bmV3", "id": 2},
    ]
    assert read_messages(talk) == conversation
    assert read_messages(talk[:1]).image_data == conversation.image_data[:2]


@pytest.mark.parametrize(
    ("block", "address"),
    [
        ({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}, "https://exam"),
        ({"type": "image_url", "image_url": "http://example.org/a.png"}, "http://example.org"),
        ({"type": "image", "url": "file:///etc/passwd"}, "file:///etc/passwd"),
        ({"type": "image", "file_id": "file-17"}, "file-17"),
        ({"type": "image_url", "image_url": {"url": "data:image/svg+xml,<svg/>"}}, "data:image"),
        ({"type": "image_url", "image_url": None}, "None"),
    ],
)
def test_an_image_that_is_elsewhere_is_named(block: dict[str, Any], address: str) -> None:
    """Nothing is fetched, no file is opened, and nothing is left out silently."""
    with pytest.raises(ValueError, match=f"{address}.*base64"):
        read_messages([HumanMessage([block])])


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder: Path = save_vision_model(tmp_path_factory.mktemp("llava"))
    config = EngineConfig(model=str(folder), num_slots=2, batch_size=32)
    with load_engine(config, progress=False) as loaded:
        yield loaded


@pytest.fixture(scope="module", params=["in-process", "http"])
def chat(request: pytest.FixtureRequest, engine: Engine) -> Iterator[ChatLibertai]:
    if request.param == "in-process":
        with ChatLibertai(engine=engine, **OPTIONS) as model:
            yield model
        return
    with (
        running(CompletionAPI(engine)) as server,
        ChatLibertai(base_url=server.url, **OPTIONS) as model,
    ):
        yield model


def shown(seed: int) -> dict[str, Any]:
    return image(base64_of(encode(picture(seed))))


def test_the_model_sees_what_the_message_shows(chat: ChatLibertai, engine: Engine) -> None:
    """As `image_data` and tags by hand would; other images, another answer."""
    answer = chat.invoke([HumanMessage(["See ", shown(0), " and ", shown(1)])])
    prompt = "<|im_start|>user\nSee [img-0] and [img-1]<|im_end|>\n<|im_start|>assistant\n"
    body = {"prompt": prompt, "image_data": image_data(0, 1), "n_predict": 8, **GREEDY}
    expected = CompletionAPI(engine).complete(body | {"stop": ["<|im_end|>"]})
    assert answer.content == expected["content"]
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] == expected["tokens_evaluated"]
    other = chat.invoke([HumanMessage(["See ", shown(1), " and ", shown(0)])])
    assert other.content != answer.content


def test_a_later_turn_reuses_the_images(chat: ChatLibertai) -> None:
    """The conversation's slot holds them; only what is new is evaluated."""
    config: Any = {"configurable": {"thread_id": "images"}}
    talk: list[BaseMessage] = [HumanMessage(["See ", shown(2), " now"])]
    first = chat.invoke(talk, config)
    talk += [first, HumanMessage("And then?")]
    second = chat.invoke(talk, config)
    assert first.usage_metadata is not None and second.usage_metadata is not None
    reused = second.usage_metadata["input_token_details"]["cache_read"]
    assert reused >= first.usage_metadata["input_tokens"] > LLAVA_TOKENS


async def test_streams_and_async_calls_show_images(chat: ChatLibertai) -> None:
    """All four ways give the same answer."""
    talk = [HumanMessage([shown(3), "What?"])]
    expected = chat.invoke(talk).content
    assert "".join(str(chunk.content) for chunk in chat.stream(talk)) == expected
    assert (await chat.ainvoke(talk)).content == expected
    assert "".join([str(chunk.content) async for chunk in chat.astream(talk)]) == expected


def test_tokens_of_images_are_counted(chat: ChatLibertai) -> None:
    """By the server, who alone knows what they take."""
    talk: list[BaseMessage] = [HumanMessage(["See ", shown(4), " now"])]
    counted = chat.get_num_tokens_from_messages(talk)
    answer = chat.invoke(talk)
    assert answer.usage_metadata is not None
    assert counted == answer.usage_metadata["input_tokens"] > LLAVA_TOKENS


def test_a_broken_image_is_the_callers_mistake(chat: ChatLibertai) -> None:
    """The server's 400 arrives as LangChain's error, and says which image."""
    with pytest.raises(ModelInvalidRequestError, match=r"image_data\[0\]"):
        chat.invoke([HumanMessage([image(A)])])


VISION: dict[str, Any] = {"modalities": {"vision": True, "audio": False}}
BLIND: dict[str, Any] = {"modalities": {"vision": False, "audio": False}}


@pytest.mark.parametrize("props", [None, {}, {"modalities": {}}, VISION], ids=str)
def test_images_go_to_servers_that_may_see(
    server: ScriptedServer, props: dict[str, Any] | None
) -> None:
    """A server of 2023 tells nothing of its eyes, and is not asked twice."""
    server.props = props
    with ChatLibertai(base_url=server.url) as chat:
        for _ in range(2):
            chat.invoke([HumanMessage(["See ", image(A)])])
    assert [body["image_data"] for body in server.completions] == [[{"data": A, "id": 0}]] * 2
    assert sum(each.path == "/props" for each in server.seen) == 1


@pytest.mark.parametrize("props", [BLIND, {**VISION, "media_marker": "<__media__>"}], ids=str)
async def test_images_do_not_go_where_nobody_looks(
    server: ScriptedServer, props: dict[str, Any]
) -> None:
    """They would be ignored silently; text still goes."""
    server.props = props
    talk = [HumanMessage(["See ", image(A)])]
    async with ChatLibertai(base_url=server.url, chat_template="chatml") as chat:
        for call in (chat.invoke, lambda messages: list(chat.stream(messages))):
            with pytest.raises(InvalidOption, match="not shown images"):
                call(talk)
        with pytest.raises(InvalidOption, match="not shown images"):
            await chat.ainvoke(talk)
        with pytest.raises(InvalidOption, match="not shown images"):
            [chunk async for chunk in chat.astream(talk)]
        assert server.completions == []
        assert chat.invoke("Hello").content
    with (
        LibertaiLLM(base_url=server.url, image_data=[{"data": A, "id": 0}]) as llm,
        pytest.raises(InvalidOption, match="not shown images"),
    ):
        llm.invoke("[img-0]")


def test_image_data_beside_images_in_messages(server: ScriptedServer) -> None:
    """Two numberings would clash: an error, before anything is sent."""
    with ChatLibertai(base_url=server.url, image_data=[{"data": B, "id": 0}]) as chat:
        with pytest.raises(InvalidOption, match="`image_data` is given beside"):
            chat.invoke([HumanMessage([image(A)])])
        chat.invoke("see [img-0]")
    assert [body["image_data"] for body in server.completions] == [[{"data": B, "id": 0}]]
