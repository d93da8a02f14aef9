"""The engine inside this process: no server, no download. Needs `libertai-llm[engine]`.

Run: python examples/in_process.py
Give a folder, a hub id or a GGUF file as the argument to use another model than the demo's.
"""

from __future__ import annotations

import sys

from libertai_engine import load_engine
from libertai_llm.langchain import ChatLibertai, LibertaiLLM


def main(model: str) -> None:
    """One running engine, shared by two wrappers; `engine=model` would do for a single one."""
    with load_engine(model) as engine:
        print(f"{engine.name}: {engine.num_slots} slots of {engine.context_size} tokens each")

        question = "Who are you?"
        print(f"> {question}")
        for chunk in ChatLibertai(engine=engine, temperature=0, max_tokens=48).stream(question):
            print(chunk.content, end="", flush=True)

        prompt = "User: What do cats eat?\nAssistant:"
        print(f"\n> {prompt}", end="")
        llm = LibertaiLLM(engine=engine, temperature=0, max_tokens=32, stop=["\n"])
        for text in llm.stream(prompt):
            print(text, end="", flush=True)
        print()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "demo")
