"""Group 9: threads, event loops, slots and cookies; many calls at once, and one after another."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer

from libertai_llm.llama_index import Libertai
from tests.llm.langchain.scripted import ScriptedServer
from tests.llm.llama_index.conftest import MakeLLM


def hello() -> list[ChatMessage]:
    return [ChatMessage("Hello!")]


async def test_the_loop_is_not_held_up(server: ScriptedServer) -> None:
    """While an answer is awaited, other work goes on."""
    server.delay = 0.2
    llm = Libertai(base_url=server.url)
    for call in (lambda: llm.achat(hello()), lambda: llm.acomplete("Hello!")):
        ticks = 0
        task = asyncio.create_task(call())
        while not task.done():
            ticks += 1
            await asyncio.sleep(0.01)
        assert ticks > 5


def test_one_model_serves_many_loops(make_llm: MakeLLM) -> None:
    """Each `asyncio.run` has a loop of its own, as LlamaIndex's helpers do."""
    llm = make_llm()

    async def ask() -> Any:
        stream = await llm.astream_chat(hello())
        return [each async for each in stream][-1].message.content

    assert asyncio.run(ask()) == asyncio.run(ask()) == llm.chat(hello()).message.content


def test_a_stream_can_be_read_in_another_thread(make_llm: MakeLLM) -> None:
    """Chat engines do so."""
    stream, told = make_llm().stream_chat(hello()), []
    thread = threading.Thread(target=lambda: told.extend(stream))
    thread.start()
    thread.join(30)
    assert told and told[-1].message.content


async def test_calls_at_once_have_slots_of_their_own(server: ScriptedServer) -> None:
    """Eight chats at a time, none waits for a slot that another is in."""
    server.delay = 0.3
    llm = Libertai(base_url=server.url)
    answers = await asyncio.gather(*(llm.achat([ChatMessage(f"No. {i}")]) for i in range(8)))
    assert server.most_at_once > 1
    assert {each["slot_id"] for each in server.completions} == {-1}
    assert len({answer.raw["slot_id"] for answer in answers}) == 8


def test_a_conversation_keeps_slot_and_cookie(server: ScriptedServer) -> None:
    """Recognised by what was said: its next turn evaluates only what is new."""
    llm = Libertai(base_url=server.url)
    histories: dict[str, list[ChatMessage]] = {"anna": [], "tom": []}
    slots: dict[str, set[int]] = {"anna": set(), "tom": set()}
    for turn in range(3):
        for name, history in histories.items():
            history.append(ChatMessage(f"I am {name}, this is turn {turn}."))
            response = llm.chat(history)
            history.append(response.message)
            slots[name].add(response.raw["slot_id"])
            cached = response.raw["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert (cached > 0) == (turn > 0)
    assert [len(used) for used in slots.values()] == [1, 1]
    assert slots["anna"] != slots["tom"]
    cookies = [each.cookie for each in server.seen if each.path == "/completion"]
    assert len(set(cookies[2:])) == 2


def test_a_chat_engine_reads_its_cache(make_llm: MakeLLM) -> None:
    """A growing conversation through LlamaIndex's own engine: each turn begins where one ended."""
    llm = make_llm(max_tokens=8, stop=["\n"])
    engine = SimpleChatEngine.from_defaults(
        llm=llm, memory=ChatMemoryBuffer.from_defaults(token_limit=4000, tokenizer_fn=list)
    )
    cached, counts = [], []
    for question in ("Hello!", "Who are you?", "Tell me of Paris."):
        response = engine.chat(question)
        assert response.response is not None
        history = engine.chat_history
        probe = llm.chat([*history[:-1]])
        usage = probe.raw["usage"]
        cached.append(usage["prompt_tokens_details"]["cached_tokens"])
        counts.append(usage["prompt_tokens"])
    assert cached[1] > counts[0] // 2 and cached[2] > counts[1] // 2


def test_a_named_conversation_is_found_by_its_name(server: ScriptedServer) -> None:
    """Even if its history was rewritten; `thread_id` at a call is the same."""
    llm = Libertai(base_url=server.url)
    anna = llm.with_session("anna")
    first = anna.chat(hello()).raw["slot_id"]
    llm.chat([ChatMessage("Somebody else.")])
    assert anna.chat([ChatMessage("Forget it.")]).raw["slot_id"] == first
    assert llm.chat([ChatMessage("Me again.")], thread_id="anna").raw["slot_id"] == first
    assert llm.thread_id is None


def test_a_slot_can_be_chosen(server: ScriptedServer) -> None:
    """For the model, or for one call."""
    llm = Libertai(base_url=server.url, slot_id=2)
    llm.chat(hello())
    llm.complete("Hello!", slot_id=3)
    assert [each["slot_id"] for each in server.completions] == [2, 3]


def test_models_are_context_managers(server: ScriptedServer) -> None:
    """`with` and `async with` close what calls have opened."""

    async def ask() -> Any:
        async with Libertai(base_url=server.url) as llm:
            return (await llm.achat(hello())).message.content

    with Libertai(base_url=server.url) as llm:
        assert llm.chat(hello()).message.content == asyncio.run(ask())
