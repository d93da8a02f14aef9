"""In a LangGraph program, the graph's thread is the conversation, although no node says so."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from libertai_llm.langchain import ChatLibertai
from tests.llm.langchain.scripted import ScriptedServer


def compiled(node: Any) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("model", node)
    graph.add_edge(START, "model")
    return graph.compile(checkpointer=InMemorySaver())


def thread(name: str) -> Any:
    return {"configurable": {"thread_id": name}}


@pytest.fixture
def chat(server: ScriptedServer) -> ChatLibertai:
    return ChatLibertai(base_url=server.url)


def test_a_graphs_thread_is_a_conversation(chat: ChatLibertai, server: ScriptedServer) -> None:
    """Two threads in turn: each keeps its slot and pays for new tokens only."""
    graph = compiled(lambda state: {"messages": [chat.invoke(state["messages"])]})
    reused = []
    for name in ("a", "b", "a", "b"):
        state = graph.invoke({"messages": [("human", f"hello {name}")]}, thread(name))
        reused.append(state["messages"][-1].usage_metadata["input_token_details"]["cache_read"])
    assert [body["slot_id"] for body in server.completions] == [-1, -1, 0, 1]
    assert reused[:2] == [0, 0] and min(reused[2:]) > len("<|im_start|>user\nhello a<|im_end|>")


async def test_a_graphs_thread_without_blocking(chat: ChatLibertai, server: ScriptedServer) -> None:
    """The same for asynchronous nodes, and tokens come out of the graph as they are made."""

    async def node(state: Any) -> Any:
        return {"messages": [await chat.ainvoke(state["messages"])]}

    graph = compiled(node)
    for _ in range(2):
        tokens = [
            message.content
            async for message, _ in graph.astream(
                {"messages": [("human", "hello")]}, thread("a"), stream_mode="messages"
            )
            if message.type == "AIMessageChunk"
        ]
        assert "".join(tokens) == " fine" and len(tokens) > 1
    assert [body["slot_id"] for body in server.completions] == [-1, 0]
    await chat.aclose()
