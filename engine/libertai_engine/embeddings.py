"""The embedding side of a server: rows of token ids in, vectors out, from any thread.

In: an `EmbeddingConfig`, then rows of token ids from any thread or event loop. Out: vectors. The
work is done by the `EmbeddingWorker`'s thread.
"""

from __future__ import annotations

import asyncio
import os
import sys
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType

import torch

from libertai_engine.config import EmbeddingConfig
from libertai_engine.embedding_queue import EmbeddingTotals, EmbeddingWorker, Row
from libertai_engine.errors import EngineUnavailable, InvalidRequest
from libertai_engine.model.encoder import LoadedEncoder, load_encoder, share_encoder
from libertai_engine.model.loader import LoadedModel
from libertai_engine.processors import settle
from libertai_engine.text.passages import PassageTokenizer

# Small batches stay in a CPU's caches; a GPU wants to be filled.
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 1024, 16384


class Embedder:
    """An embedding model that answers many threads and event loops at once.

    Closing it (or forgetting it) ends every open request. It does not survive `os.fork`.
    """

    def __init__(self, model: LoadedEncoder, config: EmbeddingConfig) -> None:
        self.model = model
        self.config = config
        self.tokenizer = PassageTokenizer(
            model.tokenizer, max_tokens=model.max_tokens, lower_case=model.recipe.lower_case
        )
        self._pid = os.getpid()
        best = CPU_BATCH_TOKENS if model.device.type == "cpu" else GPU_BATCH_TOKENS
        self._worker = EmbeddingWorker(
            model.encoder, batch_tokens=config.batch_tokens or best, max_queue=config.max_queue
        )
        self._finalizer = weakref.finalize(self, self._worker.close)

    @property
    def name(self) -> str:
        """What the model is called on the wire."""
        return self.model.name

    @property
    def max_tokens(self) -> int:
        """Tokens that one text may have, the model's own marks included."""
        return self.model.max_tokens

    @property
    def num_dimensions(self) -> int:
        """Length of a vector."""
        return self.model.num_dimensions

    @property
    def is_alive(self) -> bool:
        """True while requests are accepted."""
        return self._worker.is_alive

    @property
    def num_open(self) -> int:
        """Requests that wait or run now."""
        return self._worker.num_open

    @property
    def totals(self) -> EmbeddingTotals:
        """What was done since the model was loaded."""
        return self._worker.totals

    def embed(self, rows: Sequence[Row]) -> torch.Tensor:
        """Vectors `[row, dimension]` of rows of token ids, as pooling and projection leave them.

        Raises `InvalidRequest` if there is no row, or naming one that is empty, too long, or has an
        id out of range; `EngineUnavailable`; `GenerationFailed`.
        """
        future = self._submit(rows)
        try:
            return future.result()
        finally:
            future.cancel()

    async def aembed(self, rows: Sequence[Row]) -> torch.Tensor:
        """`embed` without blocking the event loop; cancelling it drops what is still to do."""
        return await asyncio.wrap_future(self._submit(rows))

    def _submit(self, rows: Sequence[Row]) -> Future[torch.Tensor]:
        if os.getpid() != self._pid:
            raise EngineUnavailable("the model was loaded before a fork: it lives in the parent")
        if not rows:
            raise InvalidRequest("`rows` must not be empty", field="rows")
        for index, row in enumerate(rows):
            is_sized = 0 < len(row) <= self.max_tokens
            if not is_sized or min(row) < 0 or max(row) >= self.model.vocab_size:
                raise InvalidRequest(
                    f"`rows[{index}]` must have 1 to {self.max_tokens} token ids, each from 0 to "
                    f"{self.model.vocab_size - 1}",
                    field=f"rows[{index}]",
                )
        return self._worker.submit(rows)

    def close(self) -> None:
        """Stop the thread. Open requests end with `EngineUnavailable`."""
        self._finalizer()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Embedder {self.name!r}: {self.num_dimensions} dimensions>"


def load_embedder(
    config: EmbeddingConfig | str,
    *,
    chat_model: LoadedModel | None = None,
    progress: bool | None = None,
) -> Embedder:
    """Load an embedding model and start its thread.

    `config` is an `EmbeddingConfig`, or just the model: a folder, a hub id or a GGUF file. With
    `chat_model`, that model's weights are used and `config.model` is not looked at. A progress bar
    goes to stderr; by default only if that is a terminal. Raises `ModelLoadError`.
    """
    config = EmbeddingConfig(model=config) if isinstance(config, str) else config
    settle(config.threads, config.cpus)
    if chat_model is not None:
        return Embedder(share_encoder(chat_model, config), config)
    loaded = load_encoder(config, progress=sys.stderr.isatty() if progress is None else progress)
    return Embedder(loaded, config)
