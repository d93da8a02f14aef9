"""A graph of two nodes with a checkpointer: whatever was said in a thread is there again.

Run: python examples/graph.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph

from libertai_llm.langchain import ChatLibertai

chat = ChatLibertai(temperature=0, max_tokens=32)


def answer(state: MessagesState) -> Any:
    """Say something to what was said."""
    return {"messages": [chat.invoke(state["messages"])]}


def note(state: MessagesState) -> Any:
    """Tell how much of the prompt the server still had."""
    usage: Any = state["messages"][-1].usage_metadata
    print(
        f"  {usage['input_token_details']['cache_read']} of {usage['input_tokens']} from the cache"
    )
    return {}


if __name__ == "__main__":
    builder = StateGraph(MessagesState).add_node(answer).add_node(note)
    builder.add_edge(START, "answer").add_edge("answer", "note").add_edge("note", END)
    graph = builder.compile(checkpointer=InMemorySaver())
    for name, text in (("a", "My name is Anna."), ("b", "Hello!"), ("a", "What is my name?")):
        thread: Any = {"configurable": {"thread_id": name}}
        state = graph.invoke({"messages": [("user", text)]}, thread)
        print(f"{name}> {text}\n{state['messages'][-1].text}")
