"""`LibertaiEmbeddings`: LangChain's embedding class over the llama-like API, remote or in-process.

In: documents and queries. Out: their vectors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.utils import secret_from_env
from pydantic import Field, SecretStr

from libertai_llm.embedding_settings import EmbeddingSettings, OnProgress
from libertai_llm.embeddings import MAX_BATCH
from libertai_llm.langchain.errors import model_errors
from libertai_llm.target_settings import STRICT


class LibertaiEmbeddings(EmbeddingSettings, Embeddings):
    """Embeddings of a server (`base_url`), or of a model in this process (`engine`).

    A server of 2023 has to be started with `--embedding`, ours with `--embedding-model`. Texts that
    are too long raise `ContextOverflowError` unless `truncate` is set. Invariant: that of
    `EmbeddingSettings`. Example:

        embeddings = LibertaiEmbeddings(base_url="http://127.0.0.1:8080")
        store = InMemoryVectorStore(embeddings)
    """

    model_config = STRICT

    api_key: SecretStr | None = Field(
        default_factory=secret_from_env("LIBERTAI_API_KEY", default=None), exclude=True, repr=False
    )
    """Sent as a Bearer token. Default: `LIBERTAI_API_KEY`."""
    batch_size: int = Field(default=32, ge=1, le=MAX_BATCH)
    """Texts that are sent together, to a server that takes several."""
    show_progress: bool = False
    """Show a bar while documents are embedded."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """A vector for each document."""
        with self._progress(len(texts)) as on_progress:
            return self._embed(texts, "document", self.batch_size, on_progress)

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question."""
        return self._embed([text], "query", 1)[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents` without blocking."""
        with self._progress(len(texts)) as on_progress:
            return await self._aembed(texts, "document", self.batch_size, on_progress)

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` without blocking."""
        return (await self._aembed([text], "query", 1))[0]

    def _translated(self) -> AbstractContextManager[None]:
        return model_errors()

    @contextmanager
    def _progress(self, total: int) -> Iterator[OnProgress | None]:
        """A bar on stderr, if it is wanted."""
        if not self.show_progress:
            yield None
            return
        try:
            from tqdm import tqdm
        except ImportError:  # the plain package does without
            yield _Counter(total)
            return
        bar: Any = tqdm(total=total, unit="text", file=sys.stderr)
        with bar:
            yield bar.update


class _Counter:
    """A bar for those who have no tqdm: a line a batch."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def __call__(self, more: int) -> None:
        self._done += more
        print(f"{self._done} of {self._total} texts", file=sys.stderr)
