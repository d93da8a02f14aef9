"""Several questions at once: the engine answers them together, one token of each per step.

Run: python examples/async_calls.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

import asyncio

from libertai_llm.langchain import ChatLibertai, LibertaiLLM

QUESTIONS = ["What is 3 plus 4?", "What is the capital of France?", "Tell me a short story."]


async def main() -> None:
    """Ask everything at once; then stream one more answer."""
    chat = ChatLibertai(temperature=0, max_tokens=48)
    answers = await asyncio.gather(*(chat.ainvoke(question) for question in QUESTIONS))
    for question, answer in zip(QUESTIONS, answers, strict=True):
        print(f"> {question}\n{answer.content}")

    llm = LibertaiLLM(temperature=0, max_tokens=32)
    prompt = "User: Hello, how are you?\nAssistant:"
    print(f"> {prompt}", end="")
    async for text in llm.astream(prompt, stop=["\n"]):
        print(text, end="", flush=True)
    print()


if __name__ == "__main__":
    asyncio.run(main())
