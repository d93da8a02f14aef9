"""`LibertaiEmbedding`: LlamaIndex's embedding class over the llama-like API, remote or in-process.

In: texts of nodes, queries. Out: their vectors. Callbacks, cache, rate limiter, workers and
progress are LlamaIndex's own.
"""

from __future__ import annotations

from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import ConfigDict, field_serializer, model_validator

from libertai_llm.embedding_settings import EmbeddingSettings
from libertai_llm.target_settings import STRICT


class LibertaiEmbedding(EmbeddingSettings, BaseEmbedding):
    """Embeddings of a server (`base_url`), or of a model in this process (`engine`).

    A server of 2023 has to be started with `--embedding`, ours with `--embedding-model`. Texts that
    are too long raise `ContextWindowExceeded` unless `truncate` is set; `embed_batch_size` of them
    are sent together, to a server that takes several. `query_instruction` and `text_instruction`
    are other names of the prefixes. Invariant: that of `EmbeddingSettings`; what `to_dict` writes
    holds no secret. Example:

        Settings.embed_model = LibertaiEmbedding(base_url="http://127.0.0.1:8080")
    """

    model_config = ConfigDict(**STRICT)

    model_name: str = ""
    """The model's name, for servers that have several; else only reported."""

    @model_validator(mode="before")
    @classmethod
    def _drop_class_name(cls, given: Any) -> Any:
        """`to_dict` adds it."""
        if not isinstance(given, dict):
            return given
        return {name: each for name, each in given.items() if name != "class_name"}

    @classmethod
    def _field_of(cls, name: str) -> str:
        """The field that an argument means; LlamaIndex has names of its own for the prefixes."""
        names = {"query_instruction": "query_prefix", "text_instruction": "document_prefix"}
        return names.get(name) or super()._field_of(name)

    @classmethod
    def class_name(cls) -> str:
        """The name under which the class is written down."""
        return "LibertaiEmbedding"

    def to_payload(self) -> dict[str, Any]:
        """What traces tell of this model; no secrets."""
        name = self.model_name or self._name_engine(self.engine)
        return {**super().to_payload(), "model_name": name or ""}

    @field_serializer("engine")
    def _name_engine(self, engine: Any) -> str | None:
        """A running engine is written down by its name."""
        return None if engine is None else str(getattr(engine, "name", engine))

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed([query], "query", 1)[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._aembed([query], "query", 1))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed([text], "document", 1)[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aembed([text], "document", 1))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embed(texts, "document", self.embed_batch_size)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._aembed(texts, "document", self.embed_batch_size)
