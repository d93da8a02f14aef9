"""Questions about the project's own pages: the passages that are found, and answers from them.

Run: python examples/llamaindex/query.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

from library import make_index

from libertai_llm.llama_index import Libertai

QUESTIONS = (
    "Where do calls go if neither base_url nor engine is given?",
    "Which flag sets the number of slots?",
    "What does make demo do?",
)

if __name__ == "__main__":
    index = make_index(Libertai(temperature=0, max_tokens=48, repeat_penalty=1.0))
    engine = index.as_query_engine(similarity_top_k=3)
    for question in QUESTIONS:
        answer = engine.query(question)
        print(f"> {question}\n{answer}")
        for node in answer.source_nodes:
            print(f"  {node.score:.2f}  {node.metadata['page']}: {node.metadata['section']}")
