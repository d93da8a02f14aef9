"""A router: the model says which of two engines shall answer, and can say nothing else.

Run: python examples/llamaindex/route.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

import asyncio
from collections.abc import Sequence
from typing import Literal

from library import make_index
from llama_index.core import PromptTemplate, SummaryIndex
from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.query_engine import RouterQueryEngine
from llama_index.core.schema import QueryBundle, TextNode
from llama_index.core.tools import QueryEngineTool, ToolMetadata
from pydantic import create_model

from libertai_llm.llama_index import Libertai

HOURS = ("The library opens at 9 o'clock.", "The library closes at 18 o'clock.")
ASK = PromptTemplate("{topics}\nIs this question about {names}?\nQuestion: {question}")


class Selector(BaseSelector):
    """Chooses by an object of a class that knows the choices only."""

    def __init__(self, llm: Libertai) -> None:
        self.llm = llm

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        names = [choice.get_name() for choice in choices]
        Topic = create_model("Topic", topic=(Literal[tuple(names)], ...))
        topics = "\n".join(f"{each.name}: {each.description}" for each in choices)
        given = {"topics": topics, "names": " or ".join(names), "question": query.query_str}
        topic = self.llm.structured_predict(Topic, ASK, **given).topic
        return SelectorResult(selections=[SingleSelection(index=names.index(topic), reason=topic)])

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        return await asyncio.to_thread(self._select, choices, query)

    def _get_prompts(self) -> dict[str, PromptTemplate]:
        return {"ask": ASK}

    def _update_prompts(self, prompts: dict[str, PromptTemplate]) -> None:
        raise NotImplementedError


if __name__ == "__main__":
    llm = Libertai(temperature=0, max_tokens=48, repeat_penalty=1.0)
    pages = make_index(llm, ["cassettes/README.md"]).as_query_engine(similarity_top_k=2)
    hours = SummaryIndex([TextNode(text=text) for text in HOURS]).as_query_engine()
    tools = [
        QueryEngineTool.from_defaults(hours, "library", "when the library opens and closes"),
        QueryEngineTool.from_defaults(pages, "recordings", "how real servers are recorded"),
    ]
    router = RouterQueryEngine.from_defaults(tools, selector=Selector(llm))
    for question in ("When does the library close?", "What is kept of recordings?"):
        answer = router.query(question)
        print(f"> {question}")
        print(f"  about the {answer.metadata['selector_result'].reason}\n{answer}")
