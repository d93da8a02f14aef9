"""A conversation pays for each token once: later turns evaluate only what is new.

On the bundled demo model as it is, and on a random one that is biased towards words whose text
always becomes the same tokens again: an answer that cannot be read back as it was generated cannot
be reused by anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig

from libertai_engine.engine import Engine
from libertai_llm.langchain import ChatLibertai
from tests.engine.serving import Running

QUESTIONS = ("Tell me a story about the sea", "What is the capital of France?", "And why?")
WORDS = (" the", " over", " capital", " a")
NUM_CONVERSATIONS, NUM_SLOTS = 8, 4

Ask = Callable[[ChatLibertai, list[BaseMessage], RunnableConfig], AIMessage]
AsyncAsk = Callable[[ChatLibertai, list[BaseMessage], RunnableConfig], Awaitable[AIMessage]]


@dataclass(frozen=True)
class Turn:
    """What one turn cost, in tokens. `new` are those that no earlier turn had sent or generated."""

    evaluated: int
    new: int


def invoke(chat: ChatLibertai, messages: list[BaseMessage], config: RunnableConfig) -> AIMessage:
    return chat.invoke(messages, config)


def stream(chat: ChatLibertai, messages: list[BaseMessage], config: RunnableConfig) -> AIMessage:
    return whole(list(chat.stream(messages, config)))


async def ainvoke(
    chat: ChatLibertai, messages: list[BaseMessage], config: RunnableConfig
) -> AIMessage:
    return await chat.ainvoke(messages, config)


async def astream(
    chat: ChatLibertai, messages: list[BaseMessage], config: RunnableConfig
) -> AIMessage:
    return whole([chunk async for chunk in chat.astream(messages, config)])


def whole(chunks: list[AIMessageChunk]) -> AIMessage:
    first, *rest = chunks
    for chunk in rest:
        first += chunk
    return first


def config_of(name: int) -> RunnableConfig:
    return {"configurable": {"thread_id": f"conversation {name}"}}


def talk(chat: ChatLibertai, ask: Ask, name: int) -> list[Turn]:
    """Three turns, each with the whole history, as LangChain programs do."""
    history: list[BaseMessage] = []
    turns = []
    for question in QUESTIONS:
        asked = [*history, HumanMessage(f"{question} ({name})")]
        answer = ask(chat, asked, config_of(name))
        turns.append(cost(chat, history, asked, answer))
        history = [*asked, AIMessage(answer.content)]
    return turns


async def atalk(chat: ChatLibertai, ask: AsyncAsk, name: int) -> list[Turn]:
    """`talk` without blocking."""
    history: list[BaseMessage] = []
    turns = []
    for question in QUESTIONS:
        asked = [*history, HumanMessage(f"{question} ({name})")]
        answer = await ask(chat, asked, config_of(name))
        turns.append(await asyncio.to_thread(cost, chat, history, asked, answer))
        history = [*asked, AIMessage(answer.content)]
    return turns


def cost(
    chat: ChatLibertai, history: list[BaseMessage], asked: list[BaseMessage], answer: AIMessage
) -> Turn:
    usage = answer.usage_metadata
    assert usage is not None
    known = 0
    if history:
        # The prompt of the turn before, and its answer: what the server already has.
        known = chat.get_num_tokens_from_messages(history[:-1])
        known += len(chat.get_token_ids(str(history[-1].content)))
    assert usage["input_tokens"] == chat.get_num_tokens_from_messages(asked)
    return Turn(
        evaluated=usage["input_tokens"] - usage["input_token_details"]["cache_read"],
        new=usage["input_tokens"] - known,
    )


def assert_only_new_tokens_are_evaluated(turns: list[Turn]) -> None:
    first, *later = turns
    assert first.evaluated > 0
    for turn in later:
        # An answer's last token was sampled, but nothing came after it: it was never evaluated.
        assert turn.evaluated <= turn.new + 1, turns


@pytest.fixture(params=["tiny in-process", "tiny http", "demo in-process", "demo http"])
def chat(request: pytest.FixtureRequest, tiny_engine: Engine) -> ChatLibertai:
    """A chat model on an engine of four slots."""
    model, where = request.param.split()
    if model == "demo":
        url = request.getfixturevalue("demo_server") if where == "http" else None
        engine = None if where == "http" else "demo"
        return ChatLibertai(base_url=url, engine=engine, temperature=0, max_tokens=12)
    tokenizer = tiny_engine.tokenizer
    ids = [tokenizer.encode(f"x{word}", add_special=False)[-1] for word in WORDS]
    options: dict[str, Any] = {"logit_bias": {each: 50.0 for each in ids}, "max_tokens": 8}
    if where == "http":
        server: Running = request.getfixturevalue("tiny_server")
        return ChatLibertai(base_url=server.url, **options)
    return ChatLibertai(engine=tiny_engine, **options)


@pytest.mark.parametrize("ask", [invoke, stream])
def test_three_turns_evaluate_only_what_is_new(chat: ChatLibertai, ask: Ask) -> None:
    """In turns 2 and 3 everything but the new tokens comes from the cache."""
    with chat:
        assert_only_new_tokens_are_evaluated(talk(chat, ask, 1))


@pytest.mark.parametrize("ask", [ainvoke, astream])
async def test_three_turns_without_blocking(chat: ChatLibertai, ask: AsyncAsk) -> None:
    """The same through the asynchronous methods."""
    async with chat:
        assert_only_new_tokens_are_evaluated(await atalk(chat, ask, 2))


@pytest.mark.parametrize("ask", [invoke, stream])
def test_twice_as_many_conversations_as_slots(chat: ChatLibertai, ask: Ask) -> None:
    """Eight conversations at once on four slots, in threads: still only new tokens."""
    assert chat._connect().client.props().total_slots == NUM_SLOTS
    with chat, ThreadPoolExecutor(NUM_CONVERSATIONS) as pool:
        for turns in pool.map(lambda name: talk(chat, ask, name), range(NUM_CONVERSATIONS)):
            assert_only_new_tokens_are_evaluated(turns)


@pytest.mark.parametrize("ask", [ainvoke, astream])
async def test_twice_as_many_conversations_as_slots_without_blocking(
    chat: ChatLibertai, ask: AsyncAsk
) -> None:
    """Eight conversations at once on four slots, as tasks of one loop."""
    async with chat:
        talks = [atalk(chat, ask, name) for name in range(NUM_CONVERSATIONS)]
        for turns in await asyncio.gather(*talks):
            assert_only_new_tokens_are_evaluated(turns)


def test_a_conversation_may_change_between_blocking_and_not(chat: ChatLibertai) -> None:
    """One thread_id, one slot, whichever way each turn is asked."""
    history: list[BaseMessage] = []
    slots = set()
    for number, question in enumerate(QUESTIONS):
        history.append(HumanMessage(question))
        config = config_of(99)
        answer = (
            asyncio.run(chat.ainvoke(history, config))
            if number % 2
            else invoke(chat, history, config)
        )
        slots.add(answer.response_metadata["slot_id"])
        history.append(AIMessage(answer.content))
    assert len(slots) == 1
    chat.close()
