"""Two conversations side by side; each turn evaluates only what is new in it.

A `thread_id` names a conversation, whose slot and cookies are kept, so that the server finds the
part of the prompt it has evaluated before; `cache_read` says how many tokens that were.

Run: python examples/sessions.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage

from libertai_llm.langchain import ChatLibertai

TURNS = [
    ("anna", "Hello, my name is Anna."),
    ("tom", "Hello, my name is Tom."),
    ("anna", "What is 2 plus 5?"),
    ("tom", "What is the capital of Italy?"),
    ("anna", "What is my name?"),
    ("tom", "What is my name?"),
]

if __name__ == "__main__":
    chat = ChatLibertai(temperature=0, max_tokens=48)
    histories: dict[str, list[BaseMessage]] = {"anna": [], "tom": []}
    for name, question in TURNS:
        print(f"{name}> {question}")
        (history := histories[name]).append(HumanMessage(question))
        answer: Any = None
        for chunk in chat.stream(history, {"configurable": {"thread_id": name}}):
            print(chunk.content, end="", flush=True)
            answer = chunk if answer is None else answer + chunk
        history.append(answer)
        usage = answer.usage_metadata
        cached = usage["input_token_details"]["cache_read"]
        print(f"\n  {cached} of {usage['input_tokens']} prompt tokens came from the cache")
