"""Each conversation has its own cookies and its own slot, however the calls are made."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda

from libertai_llm.langchain import ChatLibertai, LibertaiLLM
from libertai_llm.session import SessionStore
from tests.llm.langchain.scripted import ScriptedServer, Seen

SAME_ON_BOTH = pytest.mark.parametrize("kind", [ChatLibertai, LibertaiLLM])


def thread(name: Any, key: str = "thread_id") -> RunnableConfig:
    return {"configurable": {key: name}}


def places(seen: list[Seen]) -> list[tuple[int, str]]:
    """Slot asked for and cookie brought, of each completion."""
    asked = [each for each in seen if each.path == "/completion"]
    return [(each.body["slot_id"], each.cookie) for each in asked]


@SAME_ON_BOTH
@pytest.mark.parametrize("key", ["thread_id", "session_id"])
def test_a_named_conversation_keeps_cookie_and_slot(
    server: ScriptedServer, kind: Any, key: str
) -> None:
    """Slot 0 is a slot; a name may be a number; the other conversation is not disturbed."""
    with kind(base_url=server.url) as model:
        for name in (1, "two", 1, "two", "1"):
            model.invoke(f"hello {name}", thread(name, key))
            list(model.stream(f"hello {name}", thread(name, key)))
    asked = places(server.seen)
    assert [slot for slot, _ in asked] == [-1, 0, -1, 1, 0, 0, 1, 1, 0, 0]
    ours = [cookie for slot, cookie in asked if slot == 0]
    theirs = [cookie for slot, cookie in asked if slot == 1]
    assert len(set(ours)) == len(set(theirs)) == 1
    assert ours[0] != theirs[0]


@SAME_ON_BOTH
async def test_a_conversation_goes_on_without_blocking(server: ScriptedServer, kind: Any) -> None:
    """Blocking, asynchronous and streamed calls share one cookie jar and one slot."""
    async with kind(base_url=server.url) as model:
        await model.ainvoke("x", thread("a"))
        async for _ in model.astream("xx", thread("a")):
            pass
        await asyncio.to_thread(model.invoke, "xxx", thread("a"))
        await model.ainvoke("xxxx", thread("a"))
    first, *later = places(server.seen)
    assert first[0] == -1
    assert {slot for slot, _ in later} == {0}
    assert len({cookie for _, cookie in later}) == 1 and later[0][1]


@SAME_ON_BOTH
def test_a_batch_keeps_its_conversations_apart(server: ScriptedServer, kind: Any) -> None:
    """Sixteen at once, in threads: each one's second turn has the slot of its first."""
    names = [f"thread {number}" for number in range(16)]
    server.delay = 0.01
    with kind(base_url=server.url) as model:
        model.batch(names, [thread(name) for name in names])
        first = slots_by_prompt(server)
        server.seen.clear()
        model.batch(names, [thread(name) for name in names])
    asked = {each.body["prompt"]: each for each in server.seen if each.path == "/completion"}
    assert len(asked) == 16
    assert {prompt: each.body["slot_id"] for prompt, each in asked.items()} == first
    assert sorted(first.values()) == list(range(16))


@SAME_ON_BOTH
async def test_tasks_keep_their_conversations_apart(server: ScriptedServer, kind: Any) -> None:
    """The same for sixteen tasks of one event loop."""
    names = [f"thread {number}" for number in range(16)]
    async with kind(base_url=server.url) as model:
        await model.abatch(names, [thread(name) for name in names])
        first = slots_by_prompt(server)
        server.seen.clear()
        await asyncio.gather(*(model.ainvoke(name, thread(name)) for name in names))
    asked = {each.body["prompt"]: each for each in server.seen if each.path == "/completion"}
    assert {prompt: each.body["slot_id"] for prompt, each in asked.items()} == first


def slots_by_prompt(server: ScriptedServer) -> dict[str, int]:
    """Which slot holds which prompt, by what the server was asked."""
    held = {text: slot for slot, text in server.held.items()}
    prompts = [body["prompt"] for body in server.completions]
    return {
        prompt: slot
        for prompt in prompts
        for text, slot in held.items()
        if text == prompt + server.answer(prompt)
    }


@SAME_ON_BOTH
def test_the_config_around_a_call_names_the_conversation(server: ScriptedServer, kind: Any) -> None:
    """In a chain, a bound model, a function of a chain, and `generate` inside of it."""
    with kind(base_url=server.url) as model:
        chain = RunnableLambda(lambda text: text) | model
        chain.invoke("a", thread("t"))
        model.with_config(thread("t")).invoke("ab")
        RunnableLambda(lambda text: model.invoke(text, top_k=1)).invoke("abc", thread("t"))
        RunnableLambda(lambda text: generate(model, text)).invoke("abcd", thread("t"))
        assert model.invoke("abcde", thread_id="t")
    assert [slot for slot, _ in places(server.seen)] == [-1, 0, 0, 0, 0]


def generate(model: Any, text: str) -> Any:
    if isinstance(model, LibertaiLLM):
        return model.generate([text])
    return model.generate([[HumanMessage(text)]])


@pytest.mark.filterwarnings("ignore:.*is in beta")
async def test_event_streams_are_in_the_conversation(server: ScriptedServer) -> None:
    """Both versions of LangChain's events, blocking or not."""
    async with ChatLibertai(base_url=server.url) as chat:
        assert chat.stream_events("a", thread("t"), version="v3").text.get() == " fine"
        events = await chat.astream_events("b", thread("t"), version="v3")
        assert await events.text == " fine"
        async for _ in chat.astream_events("c", thread("t"), version="v2"):
            pass
    assert [slot for slot, _ in places(server.seen)] == [-1, 0, 0]


def test_a_conversation_without_a_name_is_recognised(server: ScriptedServer) -> None:
    """By its longest known beginning; two that differ get two slots, in any order."""
    with ChatLibertai(base_url=server.url) as chat:
        histories = [[HumanMessage("about cats, please")], [HumanMessage("of dogs, not cats")]]
        for _ in range(3):
            for history in histories:
                answer = chat.invoke(history)
                history += [AIMessage(answer.content), HumanMessage("go on")]
    assert [slot for slot, _ in places(server.seen)] == [-1, -1, 0, 1, 0, 1]


@SAME_ON_BOTH
def test_a_pinned_slot_is_for_all_calls(server: ScriptedServer, kind: Any) -> None:
    """Of the object or of one call; -1 leaves the choice to the conversation."""
    with kind(base_url=server.url, slot_id=5) as model:
        model.invoke("a", thread("t"))
        model.invoke("b", thread("u"), slot_id=0)
        model.invoke("c", thread("v"), slot_id=-1)
        model.invoke("cd", thread("v"), slot_id=-1)
        model.invoke("ab", thread("t"))
    first, second, third, fourth, fifth = (slot for slot, _ in places(server.seen))
    assert (first, second, third, fifth) == (5, 0, -1, 5)
    assert fourth == slots_by_prompt(server)[server.completions[3]["prompt"]]


def test_models_may_share_their_conversations(server: ScriptedServer) -> None:
    """One store for several objects, such as one with another temperature."""
    store = SessionStore()
    with (
        LibertaiLLM(base_url=server.url, sessions=store) as first,
        LibertaiLLM(base_url=server.url, sessions=store, temperature=0) as second,
    ):
        first.invoke("a", thread("t"))
        second.invoke("ab", thread("t"))
        first.model_copy(update={"top_k": 1}).invoke("abc", thread("t"))
    assert [slot for slot, _ in places(server.seen)] == [-1, 0, 0]


def test_prompts_of_one_generate_are_different_conversations(server: ScriptedServer) -> None:
    """A list of prompts goes out at once, and no slot is asked for twice at a time."""
    server.delay = 0.05
    with LibertaiLLM(base_url=server.url) as llm:
        result = llm.generate(["a", "b", "c", "d"])
    assert [each[0].text for each in result.generations] == [" fine"] * 4
    assert server.most_at_once > 1
    assert [slot for slot, _ in places(server.seen)] == [-1] * 4
