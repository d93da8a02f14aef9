"""What `ChatLibertai` promises beyond the standard suite."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Iterator
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import RunnableLambda

from libertai_engine.engine import Engine
from libertai_llm.errors import InvalidOption
from libertai_llm.langchain import ChatLibertai
from libertai_llm.prompt import ChatTemplateError
from tests.llm.langchain.scripted import ScriptedServer

TEXT = " one two three four"
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


class Listener(BaseCallbackHandler):
    """Writes down the tokens it is told, and what it is told at the start."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.started: list[dict[str, Any]] = []

    def on_chat_model_start(self, *_: Any, **kwargs: Any) -> None:
        self.started.append(kwargs)

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.tokens.append(token)


@pytest.fixture
def chat(server: ScriptedServer) -> Iterator[ChatLibertai]:
    server.answer = lambda prompt: TEXT
    with ChatLibertai(base_url=server.url, model="hermes") as chat:
        yield chat


def test_a_stream_adds_up_to_the_answer(chat: ChatLibertai) -> None:
    """Same text, same usage (once), same metadata; several chunks."""
    whole = chat.invoke("x")
    chunks = list(chat.stream("x"))
    total = reduce(add, chunks)
    assert len(chunks) > 3
    assert total.content == whole.content == TEXT
    assert sum(chunk.usage_metadata is not None for chunk in chunks) == 1
    assert total.usage_metadata["output_tokens"] == len(TEXT)
    same = {"model_name", "model_provider", "finish_reason", "stop_reason", "truncated"}
    for name in same:
        assert total.response_metadata[name] == whole.response_metadata[name]


@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_content_blocks_are_right_in_both_output_versions(
    server: ScriptedServer, version: str
) -> None:
    """One text block, whole or streamed."""
    chat = ChatLibertai(base_url=server.url, output_version=version)
    blocks = [{"type": "text", "text": " fine"}]
    total = reduce(add, [chunk async for chunk in chat.astream("x")])
    assert chat.invoke("x").content_blocks == blocks
    assert [{**block, "index": 0} for block in total.content_blocks] == [{**blocks[0], "index": 0}]
    await chat.aclose()


async def test_callbacks_hear_every_token(chat: ChatLibertai) -> None:
    """While streaming, and in `invoke` if `streaming` is on; the parts are the answer."""
    heard = []
    for ask in (
        lambda config: list(chat.stream("x", config)),
        lambda config: chat.invoke("x", config, stream=True),
    ):
        listener = Listener()
        ask({"callbacks": [listener]})
        heard.append(listener)
    listener = Listener()
    async for _ in chat.astream("x", {"callbacks": [listener]}):
        pass
    heard.append(listener)
    assert [("".join(each.tokens), len(each.tokens) > 3) for each in heard] == [(TEXT, True)] * 3


async def test_events_of_a_model_inside_a_chain(chat: ChatLibertai) -> None:
    """`astream_events` shows the tokens of a nested `invoke`."""
    chain = RunnableLambda(lambda text: chat.invoke(text).content)
    events = [event async for event in chain.astream_events("x", version="v2")]
    streamed = [each["data"]["chunk"] for each in events if each["event"] == "on_chat_model_stream"]
    assert len(streamed) > 3
    assert reduce(add, streamed).content == TEXT
    (end,) = [each for each in events if each["event"] == "on_chat_model_end"]
    assert end["data"]["output"].usage_metadata["output_tokens"] == len(TEXT)


async def test_leaving_a_stream_stops_the_server(server: ScriptedServer) -> None:
    """Breaking out of the loop closes the connection, blocking or not; so does cancelling."""
    server.answer, server.delay = (lambda prompt: "word " * 200), 0.01
    async with ChatLibertai(base_url=server.url) as chat:
        for chunk in chat.stream("x"):
            assert chunk.content
            break
        assert await asyncio.to_thread(server.closed_early.wait, 10)
        server.closed_early.clear()
        stream = chat.astream("x")
        await anext(stream)
        await stream.aclose()
        assert await asyncio.to_thread(server.closed_early.wait, 10)
        server.closed_early.clear()
        task = asyncio.create_task(chat.ainvoke("x", stream=True))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.closed_early.wait, 10)


def test_the_servers_own_template_is_used_and_asked_for_once(server: ScriptedServer) -> None:
    """With its BOS text left to the server, and its end of turn as a stop word."""
    server.props = {
        "chat_template": "{{ bos_token }}" + PLAIN.replace("assistant:", "</s>assistant:"),
        "bos_token": "<s>",
    }
    with ChatLibertai(base_url=server.url) as chat:
        for _ in range(2):
            chat.invoke([SystemMessage("be"), HumanMessage("x")])
    assert [each.path for each in server.seen].count("/props") == 1
    assert server.completions[0]["prompt"] == "system: be\nuser: x\n</s>assistant:"
    assert server.completions[0]["stop"] == ["\nuser:"]


@pytest.mark.parametrize("props", [None, {"assistant_name": "", "user_name": ""}])
async def test_a_server_that_tells_nothing_gets_chatml(
    server: ScriptedServer, props: dict[str, Any] | None
) -> None:
    """A server of December 2023, or one behind a gateway without the route."""
    server.props = props
    async with ChatLibertai(base_url=server.url) as chat:
        await chat.ainvoke([HumanMessage("x")])
        chat.invoke([HumanMessage("x")])
    for body in server.completions:
        assert body["prompt"] == "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
        assert body["stop"] == ["<|im_end|>"]


def test_a_given_template_wins(server: ScriptedServer) -> None:
    """Source or the name "chatml"; then the server is not asked."""
    server.props = {"chat_template": "{{ 1 / 0 }}"}
    with ChatLibertai(base_url=server.url, chat_template=PLAIN) as chat:
        chat.invoke("x")
    with ChatLibertai(base_url=server.url, chat_template="chatml") as chat:
        chat.invoke("x")
    prompts = [body["prompt"] for body in server.completions]
    assert prompts == [
        "user: x\nassistant:",
        "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n",
    ]
    with pytest.raises(InvalidOption, match="chat_template"):
        ChatLibertai(base_url=server.url, chat_template="chatmll").invoke("x")


def test_a_broken_template_is_a_typed_error(server: ScriptedServer) -> None:
    """Nothing is sent."""
    server.props = {"chat_template": "{{ raise_exception('only one user') }}"}
    with ChatLibertai(base_url=server.url) as chat, pytest.raises(ChatTemplateError, match="only"):
        chat.invoke("x")
    assert server.completions == []


def test_content_that_is_neither_text_nor_image_is_named(chat: ChatLibertai) -> None:
    """It is not left out in silence."""
    with pytest.raises(ValueError, match="'audio'"):
        chat.invoke([HumanMessage([{"type": "audio", "url": "http://example.org/a.wav"}])])


def test_token_counts_are_the_servers(server: ScriptedServer, tiny_engine: Engine) -> None:
    """Counted with the model's tokenizer, so that the estimate is what `input_tokens` says."""
    messages = [SystemMessage("Be brief."), HumanMessage("What is the capital?")]
    for chat in (ChatLibertai(base_url=server.url), ChatLibertai(engine=tiny_engine, max_tokens=1)):
        usage = chat.invoke(messages).usage_metadata
        assert chat.get_num_tokens_from_messages(messages) == usage["input_tokens"]
    assert chat.get_token_ids("the capital") == tiny_engine.tokenizer.encode(
        "the capital", add_special=False
    )
    assert chat.get_num_tokens("the capital") == len(chat.get_token_ids("the capital"))
    counted = ChatLibertai(engine=tiny_engine, custom_get_token_ids=lambda text: [1, 2, 3])
    assert counted.get_num_tokens("x") == counted.get_num_tokens_from_messages(messages) == 3


def test_a_rate_limiter_is_asked(server: ScriptedServer) -> None:
    """LangChain's own field; the third call in a burst of two waits."""
    limiter = InMemoryRateLimiter(
        requests_per_second=5, check_every_n_seconds=0.01, max_bucket_size=1
    )
    with ChatLibertai(base_url=server.url, rate_limiter=limiter) as chat:
        start = time.monotonic()
        for _ in range(3):
            chat.invoke("x")
    assert time.monotonic() - start > 0.3


def test_traces_tell_model_and_options(chat: ChatLibertai) -> None:
    """Standard parameters, with the call's overrides; `lc_versions` names this package."""
    listener = Listener()
    chat.invoke("x", {"callbacks": [listener]}, stop=["b"], temperature=0.5, model="other")
    metadata = listener.started[0]["metadata"]
    assert metadata["ls_provider"] == "libertai"
    assert metadata["ls_model_name"] == "other"
    assert metadata["ls_model_type"] == "chat"
    assert metadata["ls_temperature"] == 0.5
    assert metadata["ls_stop"] == ["b"]
    assert set(metadata["lc_versions"]) >= {"langchain-core", "libertai-llm"}
    params = chat._get_ls_params(max_tokens=3)
    assert (params["ls_max_tokens"], params["ls_model_name"]) == (3, "hermes")


def test_several_prompts_have_their_usage_summed(chat: ChatLibertai) -> None:
    """`generate` with more than one list of messages."""
    result = chat.generate([[HumanMessage("x")], [HumanMessage("x")]])
    assert result.llm_output["token_usage"]["completion_tokens"] == 2 * len(TEXT)


def test_probabilities_are_in_the_metadata(chat: ChatLibertai) -> None:
    """One entry a token, in the OpenAI shape, whole and streamed."""
    whole = chat.invoke("x", logprobs=True).response_metadata["logprobs"]["content"]
    total = reduce(add, list(chat.stream("x", top_logprobs=1)))
    assert "".join(each["token"] for each in whole) == TEXT
    assert total.response_metadata["logprobs"]["content"] == whole


def test_a_chain_of_prompt_and_model(chat: ChatLibertai, server: ScriptedServer) -> None:
    """The usual way to use it."""
    prompt = ChatPromptTemplate([("system", "You are {name}."), ("human", "{question}")])
    answer = (prompt | chat).invoke({"name": "Ada", "question": "Who?"})
    assert isinstance(answer, AIMessage)
    assert "You are Ada." in server.completions[0]["prompt"]


def test_where_calls_go(
    server: ScriptedServer, tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address, an engine, the environment; not two of them at once."""
    assert ChatLibertai(base_url=server.url).invoke("x").content == " fine"
    local = ChatLibertai(engine=tiny_engine, max_tokens=3).invoke("x")
    assert local.response_metadata["model_name"] == "tiny"
    with pytest.raises(ValueError, match="not both"):
        ChatLibertai(base_url=server.url, engine=tiny_engine)
    monkeypatch.setenv("LIBERTAI_API_BASE", server.url)
    assert ChatLibertai().invoke("x").content == " fine"
    assert (
        ChatLibertai(engine=tiny_engine, max_tokens=3).invoke("x").response_metadata["model_name"]
        == "tiny"
    )


async def test_without_a_target_the_demo_model_answers() -> None:
    """In this process, with one warning that says so, however it is called."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with ChatLibertai(max_tokens=3) as chat:
            told = [chat.invoke("Hello"), await chat.ainvoke("Hello")]
    assert {each.response_metadata["model_name"] for each in told} == {"demo"}
    (warning,) = [each for each in caught if "bundled demo model" in str(each.message)]
    assert warning.category is UserWarning


def test_making_a_model_costs_nothing(server: ScriptedServer) -> None:
    """No request and no model is loaded before the first call; closing an unused one is fine."""
    ChatLibertai(base_url=server.url).close()
    ChatLibertai(engine="/no/such/folder").close()
    assert server.seen == []
