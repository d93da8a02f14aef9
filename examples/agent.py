"""An agent with two tools over several turns; the graph's thread keeps its slot on the server.

Run: python examples/agent.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from libertai_llm.langchain import ChatLibertai


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return f"It is sunny in {city}."


if __name__ == "__main__":
    model = ChatLibertai(temperature=0, max_tokens=64)
    agent = create_agent(model, [add, get_weather], checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "anna"}, "recursion_limit": 8}
    for question in ("What is 14 plus 25?", "What is the weather like in Rome?"):
        shown = len(agent.get_state(thread).values.get("messages", []))
        state = agent.invoke({"messages": [("user", question)]}, thread)
        for message in state["messages"][shown:]:
            print(f"{message.type}> {message.text or getattr(message, 'tool_calls', '')}")
