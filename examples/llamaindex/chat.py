"""A chat about one of the project's own pages: each question is condensed with what was said
before, its passages are looked up, and what the server has evaluated is read from its cache.

Run: python examples/llamaindex/chat.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

from typing import Any

from library import make_index
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent

from libertai_llm.llama_index import Libertai

PAGES = ("cassettes/README.md",)
QUESTIONS = ("Which servers were recorded?", "With which model?", "And what is kept of an answer?")


class CacheReads(BaseEventHandler):
    """Prints what each answer of the model took from the cache."""

    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, LLMChatEndEvent) and event.response:
            usage = event.response.raw["usage"]
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            print(f"  {cached} of {usage['prompt_tokens']} prompt tokens came from the cache")


if __name__ == "__main__":
    index = make_index(Libertai(temperature=0, max_tokens=48, repeat_penalty=1.0), PAGES)
    engine = index.as_chat_engine(chat_mode=ChatMode.CONDENSE_PLUS_CONTEXT, similarity_top_k=1)
    get_dispatcher().add_event_handler(CacheReads())
    for question in QUESTIONS:
        print(f"> {question}")
        print(engine.chat(question))
