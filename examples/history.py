"""A chain that remembers: LangChain keeps each session's messages, the server keeps its cache.

Run: python examples/history.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables.history import RunnableWithMessageHistory

from libertai_llm.langchain import ChatLibertai

if __name__ == "__main__":
    prompt = ChatPromptTemplate([("placeholder", "{history}"), ("user", "{question}")])
    chain = prompt | ChatLibertai(temperature=0, max_tokens=32, repeat_penalty=1.0)
    histories: dict[str, InMemoryChatMessageHistory] = defaultdict(InMemoryChatMessageHistory)
    remembering = RunnableWithMessageHistory(
        chain,
        lambda session_id: histories[session_id],
        input_messages_key="question",
        history_messages_key="history",
    )
    for question in ("Hello, my name is Anna.", "What is my name?"):
        config: Any = {"configurable": {"session_id": "anna"}}
        answer = remembering.invoke({"question": question}, config)
        details = answer.usage_metadata["input_token_details"]
        print(f"> {question}\n{answer.text}\n  {details['cache_read']} tokens from the cache")
    print(len(histories["anna"].messages), "messages are kept")
