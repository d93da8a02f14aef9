"""What every embedding class of the package is told, and how it asks for vectors.

In: constructor arguments; texts that are queries or documents. Out: vectors of the client. A
framework's class adds what only its framework wants.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from libertai_llm.embeddings import MAX_DIMENSIONS, Vector
from libertai_llm.target import BASE_VARIABLE
from libertai_llm.target_settings import STRICT, TargetSettings

Kind = Literal["query", "document"]
OnProgress = Callable[[int], None]


class EmbeddingSettings(TargetSettings):
    """The common constructor of embedding classes.

    Invariant: that of `TargetSettings`; a target is named, here or by the environment, because the
    bundled demo model embeds nothing well (`engine="demo"` insists). Copies and pickles like
    `TargetSettings`.
    """

    model_config = STRICT

    query_prefix: str | None = None
    """In front of every query, such as E5's "query: ". None: what our own server's model wants."""
    document_prefix: str | None = None
    """In front of every document, such as E5's "passage: ". None: as for queries."""
    truncate: bool = False
    """Let our own server cut texts that are too long; false: they are an error there."""
    dimensions: int | None = Field(default=None, ge=1, le=MAX_DIMENSIONS)
    """Only the first so many numbers of each vector, of a server that can do that."""
    extra_body: dict[str, Any] | None = None
    """Further fields for the server at hand, sent as they are."""

    @model_validator(mode="after")
    def _check_there_is_a_target(self) -> Self:
        if not (self.base_url or self.engine is not None or os.environ.get(BASE_VARIABLE)):
            raise ValueError(
                f"give `base_url`, `engine` (a folder with an embedding model) or {BASE_VARIABLE}: "
                "there is no bundled model for embeddings"
            )
        return self

    def _translated(self) -> AbstractContextManager[None]:
        """Around each call: errors of the client as the framework knows them."""
        return nullcontext()

    def _embed(
        self, texts: Sequence[str], kind: Kind, size: int, on_progress: OnProgress | None = None
    ) -> list[Vector]:
        """A vector for each text; `size` of them are sent together."""
        prefixed, options = self._question(texts, kind)
        with self._translated():
            client = self._connect().client
            return client.embed(prefixed, batch_size=size, on_progress=on_progress, **options)

    async def _aembed(
        self, texts: Sequence[str], kind: Kind, size: int, on_progress: OnProgress | None = None
    ) -> list[Vector]:
        """`_embed` without blocking."""
        prefixed, options = self._question(texts, kind)
        with self._translated():
            client = self._connect().async_client
            return await client.embed(prefixed, batch_size=size, on_progress=on_progress, **options)

    def _question(self, texts: Sequence[str], kind: Kind) -> tuple[list[Any], Mapping[str, Any]]:
        """The texts as they are sent, and the options of the client's `embed`."""
        prefix = self.query_prefix if kind == "query" else self.document_prefix
        extra = {
            **({"model": self.model_name} if self.model_name else {}),
            **(self.extra_body or {}),
        }
        options = {
            # A prefix of the caller's stands for the model's own, even if it is empty.
            "input_type": kind if prefix is None else None,
            "truncate": self.truncate,
            "dimensions": self.dimensions,
            "extra_body": extra,
        }
        is_prefixed = bool(prefix)
        return [f"{prefix}{each}" if is_prefixed else each for each in texts], options
