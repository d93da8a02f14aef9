"""An agent whose long conversations are summarised, so that they fit a small context.

Run: python examples/summarize.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langgraph.checkpoint.memory import InMemorySaver

from libertai_llm.langchain import ChatLibertai

TEXTS = ("My name is Anna.", "I live in Rome.", "I have a dog.", "What is 3 plus 4?")

if __name__ == "__main__":
    model = ChatLibertai(temperature=0, max_tokens=32, repeat_penalty=1.0)
    summing_up = SummarizationMiddleware(
        model,
        trigger=("tokens", 100),
        keep=("messages", 2),
        token_counter=model.get_num_tokens_from_messages,
        summary_prompt="Say in one sentence what this is about.\n\n{messages}",
    )
    agent = create_agent(model, [], middleware=[summing_up], checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "anna"}}
    for text in TEXTS:
        messages = agent.invoke({"messages": [("user", text)]}, thread)["messages"]
        tokens = model.get_num_tokens_from_messages(messages)
        print(f"> {text}\n{messages[-1].text}\n  {len(messages)} messages, {tokens} tokens")
