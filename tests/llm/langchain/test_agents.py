"""Agents: the loop of calls and results, objects at its end, and what must not be done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ContextEditingMiddleware, ModelRetryMiddleware
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from libertai_llm.errors import LibertaiError
from libertai_llm.langchain import ChatLibertai
from tests.llm.langchain.scripted import RefusedError, ScriptedServer

RUN = '<tool_call>\n{"name": "run", "arguments": {"path": "/tmp/a"}}\n</tool_call>'


class Report(BaseModel):
    """What came of it."""

    lines: int


@pytest.fixture
def done() -> list[str]:
    """What the tool was asked to do."""
    return []


@pytest.fixture
def run(done: list[str]) -> Any:
    @tool
    def run(path: str) -> str:
        """Run a file."""
        done.append(path)
        return "3 lines"

    return run


@pytest.fixture
def chat(server: ScriptedServer) -> Iterator[ChatLibertai]:
    def answer(prompt: str) -> str:
        question = prompt.rpartition("<|im_start|>user\n")[2]
        if "tool\n" not in question:
            return f"I look.\n{RUN}"
        return '{"lines": 3}' if "json" in question else "It has 3 lines."

    server.answer = answer
    with ChatLibertai(base_url=server.url) as model:
        yield model


def kinds(state: Any) -> list[str]:
    return [message.type for message in state["messages"]]


async def test_a_tool_is_called_and_its_result_is_told(
    chat: ChatLibertai, server: ScriptedServer, run: Any, done: list[str]
) -> None:
    """Blocking or not; the second prompt continues the first, in the same slot."""
    agent = create_agent(chat, [run], checkpointer=InMemorySaver())
    for name in ("a", "b"):
        config: Any = {"configurable": {"thread_id": name}}
        question: Any = {"messages": [("user", "How long is it?")]}
        state = agent.invoke(question, config)
        if name == "b":
            state = await agent.ainvoke(question, config)
        last = state["messages"][-4:]
        assert [message.type for message in last] == ["human", "ai", "tool", "ai"]
        assert last[-1].text == "It has 3 lines." and last[1].text == "I look."
        usage = last[-1].usage_metadata
        assert usage["input_token_details"]["cache_read"] > usage["input_tokens"] / 2
    assert done == ["/tmp/a"] * 3
    slots = [body["slot_id"] for body in server.completions]
    assert slots == [-1, 0, -1, 1, 1, 1]


def test_an_object_in_the_end_beside_tools(
    chat: ChatLibertai, server: ScriptedServer, run: Any
) -> None:
    """The agent trusts the model's profile: one grammar for calls and for the object."""
    agent = create_agent(chat, [run], response_format=Report)
    state = agent.invoke({"messages": [("user", "How long is it? json")]})
    assert state["structured_response"] == Report(lines=3)
    assert kinds(state) == ["human", "ai", "tool", "ai"]
    grammars = {body["grammar"] for body in server.completions}
    assert len(grammars) == 1 and "lines" in grammars.copy().pop()
    explicit = create_agent(chat, [], response_format=ProviderStrategy(Report))
    server.answer = lambda prompt: '{"lines": 4}'
    state = explicit.invoke({"messages": [("user", "x")]})
    assert state["structured_response"] == Report(lines=4)
    assert "tool_call" not in server.completions[-1]["grammar"]


def test_an_object_as_a_call(chat: ChatLibertai, server: ScriptedServer) -> None:
    """The other strategy: a tool that must be called."""
    call = '<tool_call>\n{"name": "Report", "arguments": {"lines": 5}}\n</tool_call>'
    server.answer = lambda prompt: call
    agent = create_agent(chat, [], response_format=ToolStrategy(Report))
    state = agent.invoke({"messages": [("user", "x")]})
    assert state["structured_response"] == Report(lines=5)
    assert "[^<]" not in server.completions[0]["grammar"].partition("Report")[0]


@pytest.mark.parametrize("is_watched", [False, True])
def test_a_call_that_was_cut_off_is_not_made(
    server: ScriptedServer, run: Any, done: list[str], is_watched: bool
) -> None:
    """Half a path is not a path, also where somebody watches the tokens and the model streams."""
    server.answer = lambda prompt: RUN
    with ChatLibertai(base_url=server.url, max_tokens=RUN.index("p/a")) as chat:
        agent = create_agent(chat, [run])
        question: Any = {"messages": [("user", "x")]}
        if is_watched:
            parts = [part for part, _ in agent.stream(question, stream_mode="messages")]
            assert len(parts) > 3
        else:
            message = agent.invoke(question)["messages"][-1]
            assert isinstance(message, AIMessage)
            assert message.tool_calls == [] and message.invalid_tool_calls
            assert message.response_metadata["finish_reason"] == "length"
    assert done == []


def test_tokens_come_out_of_an_agent(chat: ChatLibertai, run: Any) -> None:
    """Text and calls in pieces, as they are made, with the node's result between."""
    agent = create_agent(chat, [run])
    parts = [
        part for part, _ in agent.stream({"messages": [("user", "x")]}, stream_mode="messages")
    ]
    texts = [part.text for part in parts if part.text and not isinstance(part, ToolMessage)]
    assert "".join(texts) == "I look.It has 3 lines." and len(texts) > 3
    assert sum(bool(getattr(part, "tool_call_chunks", None)) for part in parts) > 2


def test_a_failing_tool_is_told_to_the_model(
    server: ScriptedServer, chat: ChatLibertai, run: Any
) -> None:
    """A message with an error status is a message."""
    history = [("user", "x"), AIMessage("", tool_calls=[call("run")]), result("error")]
    state = create_agent(chat, [run]).invoke({"messages": history})
    assert "no such file" in server.completions[0]["prompt"]
    assert state["messages"][-1].text == "It has 3 lines."


def call(name: str) -> Any:
    return {"name": name, "args": {"path": "/tmp/a"}, "id": "1", "type": "tool_call"}


def result(status: Any) -> ToolMessage:
    return ToolMessage("no such file", tool_call_id="1", status=status)


def test_middleware_repeats_what_may_succeed(server: ScriptedServer) -> None:
    """A server's error is retried by LangChain's middleware, which asks the error."""
    failures = iter([True, False])

    def answer(prompt: str) -> str:
        if next(failures, False):
            raise RefusedError("not now")
        return "fine"

    server.answer = answer
    retry = ModelRetryMiddleware(max_retries=1, initial_delay=0.0, jitter=False)
    with ChatLibertai(base_url=server.url, max_retries=0) as chat:
        agent = create_agent(chat, [], middleware=[retry])
        assert agent.invoke({"messages": [("user", "x")]})["messages"][-1].text == "fine"
    assert len(server.completions) == 2


def test_middleware_counts_tokens(chat: ChatLibertai, run: Any) -> None:
    """With the model's own tokenizer, tools included."""
    editing = ContextEditingMiddleware(token_count_method="model")
    state = create_agent(chat, [run], middleware=[editing]).invoke({"messages": [("user", "x")]})
    assert kinds(state) == ["human", "ai", "tool", "ai"]


def test_a_thread_goes_on_after_a_node_that_died(
    chat: ChatLibertai, server: ScriptedServer, run: Any
) -> None:
    """The conversation's slot is free again, and its next turn is answered."""
    chat.max_retries = 0
    agent = create_agent(chat, [run], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "a"}}
    usual, server.answer = server.answer, refuse
    with pytest.raises(LibertaiError, match="not now"):
        agent.invoke({"messages": [("user", "x")]}, config)
    server.answer = usual
    state = agent.invoke({"messages": [("user", "y")]}, config)
    assert state["messages"][-1].text == "It has 3 lines."


def refuse(prompt: str) -> str:
    raise RefusedError("not now")


def test_agents_in_threads_keep_their_slots(
    chat: ChatLibertai, server: ScriptedServer, run: Any
) -> None:
    """Eight conversations at once, each in one slot for as long as it lasts."""
    agent = create_agent(chat, [run], checkpointer=InMemorySaver())

    def talk(name: str) -> None:
        for _ in range(2):
            config: Any = {"configurable": {"thread_id": name}}
            agent.invoke({"messages": [("user", f"I am {name}.")]}, config)

    threads = [threading.Thread(target=talk, args=(f"n{number}",)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    slots: dict[str, set[int]] = {}
    for body in server.completions:
        name = body["prompt"].partition("I am ")[2].partition(".")[0]
        slots.setdefault(name, set()).add(body["slot_id"])
    assert len(slots) == 8
    assert all(len(used - {-1}) == 1 for used in slots.values())
    assert len({max(used) for used in slots.values()}) == 8
