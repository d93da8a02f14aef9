"""An answer piece by piece, as the model writes it: the chat class, then the LLM class.

Run: python examples/streaming.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

from typing import Any

from libertai_llm.langchain import ChatLibertai, LibertaiLLM


def stream_chat(question: str) -> None:
    """Messages in, message chunks out. The chunks add up to the whole message."""
    chat = ChatLibertai(temperature=0, max_tokens=48)
    print(f"> {question}")
    whole: Any = None
    for chunk in chat.stream(question):
        print(chunk.content, end="", flush=True)
        whole = chunk if whole is None else whole + chunk
    print(f"\n  finish reason: {whole.response_metadata['finish_reason']}")


def stream_text(prompt: str) -> None:
    """Plain text in, plain text out: the model goes on where the prompt ends."""
    llm = LibertaiLLM(temperature=0, max_tokens=64)
    print(f"> {prompt}", end="")
    for text in llm.stream(prompt, stop=["\n5."]):
        print(text, end="", flush=True)
    print()


if __name__ == "__main__":
    stream_chat("What can you do?")
    stream_text("Building a website can be done in 10 simple steps:")
