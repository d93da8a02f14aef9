"""Group 2: the eight methods say the same, whole or in pieces, blocking or not."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatResponse, CompletionResponse
from llama_index.core.llms import ChatMessage, MessageRole, TextBlock

from libertai_llm.errors import APIError, ContextWindowExceeded
from libertai_llm.llama_index import Libertai
from libertai_llm.llama_index.answers import IMPOSSIBLE, ChatReader, TextReader
from libertai_llm.probs import TokenProb, TokenProbs
from libertai_llm.tools import ToolCallParser
from libertai_llm.types import CompletionChunk
from tests.llm.langchain.scripted import RefusedError, ScriptedServer
from tests.llm.llama_index.conftest import MakeLLM

MESSAGES = [ChatMessage("Be brief.", role="system"), ChatMessage("Tell me of Paris.")]
PROMPT = "The capital of France is"


async def chats(llm: Any, **options: Any) -> list[list[ChatResponse]]:
    """The same chat in all four ways; one response is a list of one."""
    streamed = await llm.astream_chat(MESSAGES, **options)
    return [
        [llm.chat(MESSAGES, **options)],
        [await llm.achat(MESSAGES, **options)],
        list(llm.stream_chat(MESSAGES, **options)),
        [each async for each in streamed],
    ]


async def completions(llm: Any, **options: Any) -> list[list[CompletionResponse]]:
    """The same completion in all four ways."""
    streamed = await llm.astream_complete(PROMPT, **options)
    return [
        [llm.complete(PROMPT, **options)],
        [await llm.acomplete(PROMPT, **options)],
        list(llm.stream_complete(PROMPT, **options)),
        [each async for each in streamed],
    ]


async def test_chats_agree(make_llm: MakeLLM) -> None:
    """Four ways, one answer, from the assistant."""
    ways = await chats(make_llm(cache_prompt=False))
    texts = [way[-1].message.content for way in ways]
    assert texts[0] and texts == [texts[0]] * 4
    assert {each.message.role for way in ways for each in way} == {MessageRole.ASSISTANT}
    assert ways[0][0].delta is None and ways[1][0].delta is None


async def test_completions_agree(make_llm: MakeLLM) -> None:
    """Four ways, one text."""
    ways = await completions(make_llm(cache_prompt=False))
    texts = [way[-1].text for way in ways]
    assert texts[0] and texts == [texts[0]] * 4
    assert ways[0][0].delta is None and ways[1][0].delta is None


async def test_streams_add_up(make_llm: MakeLLM) -> None:
    """Each chunk has the text so far; what is new in each, put together, is the text."""
    llm = make_llm(max_tokens=40)
    for way in (await chats(llm))[2:]:
        told = ""
        for each in way:
            assert each.delta is not None
            told += each.delta
            assert (each.message.content or "") == told
        assert len(way) > 3
    for text_way in (await completions(llm))[2:]:
        told = ""
        for text in text_way:
            assert text.delta is not None
            told += text.delta
            assert text.text == told
        assert len(text_way) > 3


async def test_last_chunk_has_it_all(make_llm: MakeLLM) -> None:
    """Its delta may be empty; its message is whole, as agents take it from there."""
    llm = make_llm()
    whole, _, *streams = await chats(llm)
    for stream in streams:
        assert stream[-1].message.blocks == whole[0].message.blocks
        assert stream[-1].additional_kwargs["finish_reason"] in {"stop", "length"}


async def test_usage_is_in_raw(make_llm: MakeLLM) -> None:
    """On the last response of any way; the prompt's count has what the server added."""
    llm = make_llm(cache_prompt=False)
    for way in [*await chats(llm), *await completions(llm)]:
        usage = way[-1].raw["usage"]
        assert usage["prompt_tokens"] > 5 and 0 < usage["completion_tokens"] <= 12
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert way[-1].additional_kwargs["total_tokens"] == usage["total_tokens"]
        assert all("usage" not in each.raw for each in way[:-1])


async def test_messages_carry_nothing_but_the_answer(make_llm: MakeLLM) -> None:
    """Slots and tokens are told beside the message, or they would be in the next prompt."""
    for way in await chats(make_llm()):
        assert way[-1].message.additional_kwargs == {}
        assert way[-1].raw["slot_id"] >= 0 and way[-1].additional_kwargs["slot_id"] >= 0
        assert all(isinstance(each.raw, dict) for each in way)


async def test_empty_answers_are_answers(server: ScriptedServer) -> None:
    """Nothing said is an empty text, not a missing one."""
    server.answer = lambda prompt: ""
    llm = Libertai(base_url=server.url)
    for way in await chats(llm):
        assert way and way[-1].message.content == ""
        assert [type(block) for block in way[-1].message.blocks] == [TextBlock]
    for text_way in await completions(llm):
        assert text_way and text_way[-1].text == ""


async def test_characters_are_whole(server: ScriptedServer) -> None:
    """Text of any script arrives as it was, in messages and in deltas."""
    text = " Grüße, 世界! 👩‍👩‍👧 ﷽\n\ttab"
    server.answer = lambda prompt: text
    for way in await chats(Libertai(base_url=server.url)):
        assert way[-1].message.content == text
        assert len(way) == 1 or "".join(each.delta or "" for each in way) == text


async def test_server_errors_are_raised(server: ScriptedServer) -> None:
    """Whatever the way, with the server's own words."""

    def refuse(prompt: str) -> str:
        raise RefusedError("out of paper")

    server.answer = refuse
    llm = Libertai(base_url=server.url, max_retries=0)
    for call in (chats, completions):
        with pytest.raises(APIError, match="out of paper"):
            await call(llm)
    with pytest.raises(APIError, match="out of paper"):
        await llm.achat(MESSAGES)
    with pytest.raises(APIError, match="out of paper"):
        list(llm.stream_chat(MESSAGES))


def test_too_long_a_prompt_is_an_error(make_llm: MakeLLM) -> None:
    """It says so, instead of cutting what was to be read."""
    with pytest.raises(ContextWindowExceeded):
        make_llm().chat([ChatMessage("long " * 9000)])


async def test_probabilities_are_told(make_llm: MakeLLM) -> None:
    """For each token the likeliest ones; the last chunk has all of them."""
    llm = make_llm(max_tokens=4)
    for way in [*await chats(llm, top_logprobs=3), *await completions(llm, logprobs=True)]:
        logprobs = way[-1].logprobs
        assert logprobs is not None and len(logprobs) == 4
        assert {len(place) for place in logprobs} <= {1, 3}
        assert all(IMPOSSIBLE <= token.logprob <= 0 for place in logprobs for token in place)
    assert llm.chat(MESSAGES).logprobs is None


def test_probabilities_of_long_streams_are_cheap() -> None:
    """Each place is read once, not with every chunk after it; a chunk keeps what it told."""
    top = tuple(TokenProb(token=f"t{n}", piece=b"t", logprob=-1.0) for n in range(5))
    chunk = CompletionChunk(content="a", probs=(TokenProbs(chosen=top[0], top=top),))
    for reader in (ChatReader(ToolCallParser(calls=False)), TextReader()):
        start = time.process_time()
        told = [reader.chunk(chunk) for _ in range(1000)]
        assert [len(each.logprobs or ()) for each in told] == list(range(1, 1001))
        assert time.process_time() - start < 3


async def test_breaking_off_a_stream_frees_the_server(server: ScriptedServer) -> None:
    """Who stops reading stops the generation."""
    server.answer, server.delay = lambda prompt: "word " * 100, 0.01
    llm = Libertai(base_url=server.url)
    stream = llm.stream_chat(MESSAGES)
    next(stream)
    stream.close()
    assert await asyncio.to_thread(server.closed_early.wait, 10)
    server.closed_early.clear()
    astream = await llm.astream_chat(MESSAGES)
    await anext(astream)
    await astream.aclose()
    del astream
    assert await asyncio.to_thread(server.closed_early.wait, 10)
