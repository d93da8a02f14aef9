"""Real programs that speak OpenAI's API, on our server: `openai` and LangChain's `ChatOpenAI`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_openai import ChatOpenAI, OpenAI

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from tests.engine.serving import Running, read_all, request_bytes, running

MESSAGES: list[Any] = [{"role": "user", "content": "Once upon a time"}]
TOOL: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
LIMIT: dict[str, Any] = {"max_tokens": 8, "extra_body": {"ignore_eos": True}}
NO_KEY = "none needed"


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=NO_KEY, max_retries=0) as made:
        yield made


def chat_openai(server: Running, **options: Any) -> ChatOpenAI:
    base_url = f"{server.url}/v1"
    return ChatOpenAI(base_url=base_url, api_key=NO_KEY, model="any", max_retries=0, **options)


def test_chat(client: openai.OpenAI, engine: Engine) -> None:
    """The typed answer, with usage; system prompts and parts of text."""
    parts = [{"type": "text", "text": "Once"}, {"type": "text", "text": " upon a time"}]
    messages: list[Any] = [
        {"role": "system", "content": "Tell."},
        {"role": "user", "content": parts},
    ]
    answer = client.chat.completions.create(
        model="any", messages=messages, temperature=0, seed=1, user="anna", **LIMIT
    )
    (choice,) = answer.choices
    assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
    assert choice.message.content and answer.model == engine.name
    assert answer.usage is not None and answer.usage.completion_tokens >= 8
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens is not None


def test_chat_stream(client: openai.OpenAI) -> None:
    """Chunk by chunk the same text; usage at the end if asked for."""
    options: dict[str, Any] = {"model": "any", "messages": MESSAGES, "temperature": 0, **LIMIT}
    whole = client.chat.completions.create(**options).choices[0].message.content
    usage_too = {"include_usage": True}
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options=usage_too))
    text = "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)
    assert text == whole and len(chunks) > 4
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None and not chunks[-1].choices


async def test_async_chat_stream(server: Running) -> None:
    """The asynchronous client too; leaving early is fine."""
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=NO_KEY) as client:
        stream = await client.chat.completions.create(
            model="any", messages=MESSAGES, stream=True, extra_body={"ignore_eos": True}
        )
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()


def test_completions(client: openai.OpenAI) -> None:
    """Several prompts, several answers, log-probabilities, echo."""
    answer = client.completions.create(
        model="any", prompt=["Once", "The sea"], n=2, logprobs=2, seed=1, **LIMIT
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.tokens and logprobs.text_offset
    assert len(logprobs.tokens) == len(logprobs.token_logprobs or [])
    chunks = client.completions.create(
        model="any", prompt="Once", echo=True, stream=True, temperature=0, **LIMIT
    )
    assert "".join(chunk.choices[0].text for chunk in chunks).startswith("Once")


def test_chat_logprobs(client: openai.OpenAI) -> None:
    """The typed entries."""
    answer = client.chat.completions.create(
        model="any", messages=MESSAGES, logprobs=True, top_logprobs=2, temperature=0, **LIMIT
    )
    found = answer.choices[0].logprobs
    assert found is not None and found.content
    assert all(len(entry.top_logprobs) == 2 for entry in found.content)


def test_models(client: openai.OpenAI, engine: Engine) -> None:
    """Listed, fetched by name, and a 404 for others, slashes or not."""
    assert [model.id for model in client.models.list()] == [engine.name]
    assert client.models.retrieve(engine.name).id == engine.name
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("someone/else")
    assert caught.value.type == "not_found_error"


def test_errors_are_typed(client: openai.OpenAI, engine: Engine) -> None:
    """Class, `param`, `code` and `type` as the client reads them."""
    create = client.chat.completions.create
    with pytest.raises(openai.BadRequestError) as caught:
        create(model="any", messages=MESSAGES, n=99)
    assert (caught.value.param, caught.value.type) == ("n", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as caught:
        create(model="any", messages=[{"role": "user", "content": "a " * engine.context_size}])
    assert (caught.value.param, caught.value.code) == ("messages", "context_length_exceeded")
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["n_ctx"] == engine.context_size
    with pytest.raises(openai.BadRequestError, match="not supported") as caught:
        create(model="any", messages=MESSAGES, tools=[TOOL])
    assert caught.value.param == "tools"


def test_the_key_is_asked_for(engine: Engine) -> None:
    """As on every other route, in OpenAI's error shape."""
    with running(CompletionAPI(engine), api_keys=("right",)) as server:
        url = f"{server.url}/v1"
        with openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                client.models.list()
            assert caught.value.code == "invalid_api_key"
        with openai.OpenAI(base_url=url, api_key="right") as client:
            assert client.models.list().data


def test_every_error_has_openais_shape(server: Running) -> None:
    """Also what no route has seen: no JSON, no such path; other paths keep their own shape."""
    for reply in (
        server.send("POST", "/v1/chat/completions", b"{"),
        server.post("/v1/chat/completions", {"messages": []}),
        server.post("/v1/completions", {}),
        server.get("/v1/nothing"),
        server.get("/v1/completions"),
    ):
        error = reply.json["error"]
        assert set(error) >= {"message", "type", "param", "code"} and error["message"]
        assert error["code"] is None or isinstance(error["code"], str)
    assert server.get("/nothing").error["code"] == 404


def test_a_stream_ends_with_done(server: Running) -> None:
    """On these routes only; every event before it is JSON."""
    reply = server.post("/v1/completions", {"prompt": "a", "stream": True, "max_tokens": 2})
    *events, done, end = reply.body.decode().split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    assert all(json.loads(each.removeprefix("data: "))["id"] for each in events)
    assert b"[DONE]" not in server.post("/completion", {"prompt": "a", "stream": True}).body


def test_an_error_in_a_stream_ends_it(long_model: Path) -> None:
    """An event in OpenAI's shape and no [DONE], so that nobody takes the text for whole."""
    config = EngineConfig(model=str(long_model), num_slots=1)
    with load_engine(config, progress=False) as own, running(CompletionAPI(own)) as server:
        body = json.dumps({"prompt": "a", "stream": True, "ignore_eos": True}).encode()
        with server.connect() as connection:
            connection.sendall(request_bytes("POST", "/v1/completions", body))
            begin = connection.recv(4096)
            own.close()
            text = (begin + read_all(connection)).decode()
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=NO_KEY, max_retries=0) as client:
            with pytest.raises(openai.InternalServerError) as caught:
                client.completions.create(model="any", prompt="a")
            assert caught.value.status_code == 503
    assert "[DONE]" not in text
    last = text.split("data: ")[-1].split("\n\n")[0]
    error = json.loads(last)["error"]
    assert (error["type"], error["code"], error["param"]) == ("unavailable_error", None, None)


def test_langchain_chat(server: Running) -> None:
    """`ChatOpenAI`: whole, streamed, with log-probabilities, in a batch."""
    chat = chat_openai(server, temperature=0, max_tokens=8, extra_body={"ignore_eos": True})
    whole = chat.invoke("Once upon a time")
    assert whole.content and whole.response_metadata["finish_reason"] == "length"
    assert whole.usage_metadata is not None and whole.usage_metadata["output_tokens"] >= 8
    chunks = list(chat.stream("Once upon a time", stream_usage=True))
    assert "".join(str(chunk.content) for chunk in chunks) == whole.content
    assert any(chunk.usage_metadata for chunk in chunks)
    assert [each.content for each in chat.batch(["Once upon a time"] * 3)] == [whole.content] * 3
    bound = chat.bind(logprobs=True, top_logprobs=2).invoke("Once upon a time")
    assert bound.content == whole.content and bound.response_metadata["logprobs"]["content"]


async def test_langchain_chat_async(server: Running) -> None:
    """The same without blocking."""
    chat = chat_openai(server, temperature=0, max_tokens=8)
    whole = await chat.ainvoke("Once upon a time")
    chunks = [chunk async for chunk in chat.astream("Once upon a time")]
    assert "".join(str(chunk.content) for chunk in chunks) == whole.content


def test_langchain_text(server: Running) -> None:
    """The older class, on the older route."""
    llm = OpenAI(base_url=f"{server.url}/v1", api_key=NO_KEY, model="any", temperature=0)
    assert llm.invoke("Once upon a time", max_tokens=4)


def test_langchain_knows_an_overflow(server: Running, engine: Engine) -> None:
    """LangChain's own error class, so that its callers can shorten and go on."""
    with pytest.raises(ContextOverflowError):
        chat_openai(server).invoke("a " * engine.context_size)
