"""The `/v1` API over a real engine: the same answers by every way, in OpenAI's form."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.engine import Engine
from libertai_engine.errors import ContextOverflow, EngineUnavailable, InvalidRequest, NotFound
from libertai_engine.openai_api import OpenAIAPI
from tests.engine.serving import wait_until

MESSAGES = [{"role": "user", "content": "Once upon a time"}]
CHAT = {"messages": MESSAGES, "max_tokens": 12, "ignore_eos": True, "temperature": 0}
TEXT = {"prompt": "Once upon a time", "max_tokens": 12, "ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="module")
def api(engine: Engine) -> OpenAIAPI:
    return OpenAIAPI(engine)


async def chunks_of(stream: Any) -> list[dict[str, Any]]:
    return [chunk async for chunk in stream]


def assembled(chunks: list[dict[str, Any]], read: Callable[[dict[str, Any]], str]) -> list[str]:
    """The text of each choice, put together from a stream."""
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + read(choice)
    return [texts[index] for index in sorted(texts)]


def is_idle(engine: Engine) -> bool:
    return engine.load.num_running == engine.load.num_waiting == 0


async def test_a_chat_is_a_completion_of_its_template(api: OpenAIAPI, engine: Engine) -> None:
    """Same tokens in, same tokens out; only the form differs."""
    llama = CompletionAPI(engine)
    prompt = llama.apply_template({"messages": MESSAGES})["prompt"]
    options = {"n_predict": 12, "temperature": 0, "repeat_penalty": 1.0, "ignore_eos": True}
    expected = llama.complete({"prompt": prompt, **options})
    assert isinstance(expected, dict)
    found = await api.chat(CHAT)
    (choice,) = found["choices"]
    message = {"role": "assistant", "content": expected["content"], "refusal": None}
    assert choice == {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    assert found["usage"]["prompt_tokens"] == expected["tokens_evaluated"]
    assert found["usage"]["completion_tokens"] == expected["tokens_predicted"]
    assert (found["object"], found["model"]) == ("chat.completion", engine.name)
    assert found["id"].startswith("chatcmpl-")


@pytest.mark.parametrize("more", [{}, {"n": 3, "temperature": 1.0, "seed": 5, "logprobs": True}])
async def test_a_chat_stream_says_the_same(api: OpenAIAPI, more: dict[str, Any]) -> None:
    """Role first, reason last, one id; texts and log-probabilities add up to the whole answer's."""
    body = {**CHAT, **more}
    whole = await api.chat(body)
    chunks = await chunks_of(api.chat_stream(body))
    assert {(each["id"], each["object"]) for each in chunks} == {
        (chunks[0]["id"], "chat.completion.chunk")
    }
    assert all("usage" not in chunk for chunk in chunks)
    texts = assembled(chunks, lambda choice: choice["delta"].get("content", ""))
    assert texts == [each["message"]["content"] for each in whole["choices"]]
    for expected in whole["choices"]:
        own = [
            choice
            for chunk in chunks
            for choice in chunk["choices"]
            if choice["index"] == expected["index"]
        ]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert own[-1]["delta"] == {} and own[-1]["finish_reason"] == expected["finish_reason"]
        assert all(each["finish_reason"] is None for each in own[:-1])
        entries = [entry for each in own for entry in (each["logprobs"] or {}).get("content", [])]
        assert entries == ((expected["logprobs"] or {}).get("content") or [])


async def test_a_text_stream_says_the_same(api: OpenAIAPI) -> None:
    """Several prompts, each repeated in front, two answers to each."""
    body = {**TEXT, "prompt": ["Once", "The sea"], "n": 2, "echo": True, "seed": 3}
    body |= {"temperature": 1.0, "stream_options": {"include_usage": True}}
    whole = await api.text(body)
    *chunks, last = await chunks_of(api.text_stream(body))
    texts = [each["text"] for each in whole["choices"]]
    assert assembled(chunks, lambda choice: str(choice["text"])) == texts
    assert [text.startswith("Once") for text in texts] == [True, True, False, False]
    assert [text.startswith("The sea") for text in texts] == [False, False, True, True]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == [] and last["object"] == "text_completion"
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert last["usage"][name] == whole["usage"][name], name


async def test_choices_are_those_of_their_seeds(api: OpenAIAPI) -> None:
    """The second of three answers is the one that the next seed gives alone."""
    warm = {**CHAT, "temperature": 1.5}
    three = await api.chat({**warm, "n": 3, "seed": 10})
    alone = await api.chat({**warm, "seed": 11})
    contents = [each["message"]["content"] for each in three["choices"]]
    assert contents[1] == alone["choices"][0]["message"]["content"]
    assert len(set(contents)) == 3


async def test_usage_counts_each_prompt_once_and_what_was_cached(
    api: OpenAIAPI, engine: Engine
) -> None:
    """Prompt and answers in tokens; the second time all but the last prompt token is reused."""
    body = {**TEXT, "prompt": "A prompt that nobody else has asked yet", "n": 2}
    prompt = engine.tokenizer.encode(str(body["prompt"]), add_special=True)
    usage = (await api.text(body))["usage"]
    assert usage["prompt_tokens"] == len(prompt)
    assert usage["total_tokens"] == len(prompt) + usage["completion_tokens"]
    assert usage["completion_tokens"] >= 24
    again = (await api.text(body))["usage"]
    assert again["prompt_tokens_details"] == {"cached_tokens": len(prompt) - 1}


async def test_reasons(api: OpenAIAPI, engine: Engine) -> None:
    """A stop word and the end of the turn are `stop`; the limit is `length`."""
    text = (await api.text(TEXT))["choices"][0]["text"]
    word = text[len(text) // 2 :][:3]
    stopped = (await api.text({**TEXT, "stop": [word]}))["choices"][0]
    assert stopped["finish_reason"] == "stop" and text.startswith(stopped["text"])
    assert word not in stopped["text"]
    end = min(engine.tokenizer.eos_ids)
    ended = await api.chat({"messages": MESSAGES, "logit_bias": {str(end): 1000}})
    assert ended["choices"][0]["finish_reason"] == "stop"
    assert ended["choices"][0]["message"]["content"] == ""
    nothing = (await api.text({**TEXT, "max_tokens": 0}))["choices"][0]
    assert (nothing["text"], nothing["finish_reason"]) == ("", "length")


async def test_logprobs_of_a_chat(api: OpenAIAPI) -> None:
    """The chosen token of a greedy answer is the likeliest; bytes and text are its own."""
    body = {**CHAT, "logprobs": True, "top_logprobs": 3}
    choice = (await api.chat(body))["choices"][0]
    entries = choice["logprobs"]["content"]
    assert (
        b"".join(bytes(entry["bytes"]) for entry in entries).decode(errors="replace")
        == (choice["message"]["content"])
    )
    for entry in entries:
        best, *others = entry["top_logprobs"]
        assert (best["token"], best["logprob"]) == (entry["token"], entry["logprob"])
        assert len(others) == 2 and best["logprob"] >= max(each["logprob"] for each in others)
        assert sum(math.exp(each["logprob"]) for each in entry["top_logprobs"]) <= 1 + 1e-9
    plain = (await api.chat(CHAT))["choices"][0]
    assert plain["message"] == choice["message"], "asking for them changes nothing"


async def test_logprobs_of_a_text(api: OpenAIAPI) -> None:
    """Four arrays of one length; every token begins where its offset says."""
    body = {**TEXT, "logprobs": 2, "prompt": "é"}
    choice = (await api.text(body))["choices"][0]
    logprobs = choice["logprobs"]
    assert {len(values) for values in logprobs.values()} == {len(logprobs["tokens"])}
    ascii_tokens = 0
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        if token.isascii() and not token.startswith("byte:"):
            assert choice["text"][offset:].startswith(token)
            ascii_tokens += 1
    assert ascii_tokens
    assert all(len(top) <= 2 for top in logprobs["top_logprobs"])
    banned = {**body, "logit_bias": {str(number): -1e9 for number in range(3, 399)}}
    values = (await api.text(banned))["choices"][0]["logprobs"]["token_logprobs"]
    assert all(-9999.0 <= value <= 0 for value in values)


async def test_a_long_prompt_is_refused_with_its_numbers(api: OpenAIAPI, engine: Engine) -> None:
    """Never cut; the field is the one that the caller knows."""
    long = "word " * engine.context_size
    with pytest.raises(ContextOverflow) as caught:
        await api.chat({"messages": [{"role": "user", "content": long}]})
    assert caught.value.field == "messages" and caught.value.context_size == engine.context_size
    with pytest.raises(ContextOverflow) as caught:
        await chunks_of(api.text_stream({"prompt": long}))
    assert caught.value.field == "prompt"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
async def test_a_limit_that_is_too_low_has_the_callers_name(api: OpenAIAPI, name: str) -> None:
    """Whatever the engine calls it."""
    body = {"messages": MESSAGES, "response_format": {"type": "json_object"}, name: 1}
    with pytest.raises(InvalidRequest, match=f"`{name}` must be at least 2") as caught:
        await api.chat(body)
    assert caught.value.field == name


async def test_leaving_frees_every_slot(api: OpenAIAPI, engine: Engine) -> None:
    """A closed stream and a cancelled call, with two answers each."""
    endless = {"messages": MESSAGES, "n": 2, "ignore_eos": True}
    async with aclosing(api.chat_stream(endless)) as stream:
        await anext(stream)
        assert not is_idle(engine)
    await asyncio.to_thread(wait_until, lambda: is_idle(engine))
    task = asyncio.create_task(api.chat(endless))
    await asyncio.to_thread(wait_until, lambda: not is_idle(engine))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_until, lambda: is_idle(engine))


async def test_more_answers_than_the_queue_takes(api: OpenAIAPI, engine: Engine) -> None:
    """All or none: 503, and nothing is left running."""
    prompts = ["a"] * 32
    tasks = [asyncio.create_task(api.text({**TEXT, "prompt": prompts})) for _ in range(4)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(each, EngineUnavailable) for each in results)
    good = [each for each in results if isinstance(each, dict)]
    assert good and all(len(each["choices"]) == 32 for each in good)
    assert is_idle(engine)


def test_models(api: OpenAIAPI, engine: Engine) -> None:
    """One model, by the name it has in answers."""
    (model,) = api.models()["data"]
    assert (model["id"], model["object"]) == (engine.name, "model")
    assert model["meta"]["n_ctx"] == engine.context_size and model["meta"]["n_params"] > 0
    assert api.model(engine.name) == model
    with pytest.raises(NotFound):
        api.model("other")
