"""The engine as its users see it: load a model, submit requests, read streams.

In: an `EngineConfig`, then `Request`s from any thread or event loop. Out: `Stream`s of deltas.
The work is done by the `Worker`'s thread.
"""

from __future__ import annotations

import os
import weakref
from types import TracebackType

import torch

from libertai_engine.config import EngineConfig
from libertai_engine.errors import ContextOverflow, EngineUnavailable, InvalidRequest
from libertai_engine.model.loader import LoadedModel, load_model
from libertai_engine.model.runner import ModelRunner
from libertai_engine.sequence import Request, Sequence
from libertai_engine.stream import Stream
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.worker import Load, Runner, Worker


class Engine:
    """A model, its slots and the thread that runs them.

    Safe to use from many threads and event loops at once. Closing it (or forgetting it, or leaving
    the interpreter) ends every open stream. An engine does not survive `os.fork`: use it in the
    process that made it.
    """

    def __init__(
        self, runner: Runner, tokenizer: Tokenizer, config: EngineConfig, model: LoadedModel | None
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.model = model
        self._num_slots, self._context_size = runner.num_slots, runner.context_size
        self._can_shift = runner.can_shift
        self._pid = os.getpid()
        self._worker = Worker(
            runner,
            batch_size=config.batch_size,
            max_queue=config.max_queue,
            store_bytes=config.prefix_store_bytes,
        )
        self._finalizer = weakref.finalize(self, self._worker.close)

    @property
    def name(self) -> str:
        """What the model is called on the wire."""
        return self.config.alias or (self.model.name if self.model else self.config.model)

    @property
    def num_slots(self) -> int:
        """Requests that can run at once."""
        return self._num_slots

    @property
    def context_size(self) -> int:
        """Tokens one slot holds, prompt and answer together."""
        return self._context_size

    @property
    def is_alive(self) -> bool:
        """True while requests are accepted."""
        return self._worker.is_alive

    @property
    def load(self) -> Load:
        """How many sequences run and wait now."""
        return self._worker.load

    def submit(self, *requests: Request) -> Stream:
        """Queue one request, or several that one reader follows.

        Iterate the stream, sync or async, for their deltas, told apart by their `index`. Raises
        `ContextOverflow` if a prompt leaves no room for a token, `InvalidRequest` for a slot or
        token id out of range or a context shift that this model cannot do, `EngineUnavailable` if
        the queue is full or the engine is closed.
        """
        for request in requests:
            self._check(request)
        stream = Stream(on_abort=self._on_abort, num_sequences=len(requests))
        sequences = [Sequence(each, self.tokenizer, self.context_size) for each in requests]
        self._worker.submit(sequences, stream)
        return stream

    def close(self) -> None:
        """Stop the thread and drop the model. Open streams end with `EngineUnavailable`."""
        self._finalizer()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Engine {self.name!r}: {self.num_slots} slots of {self.context_size} tokens>"

    def _on_abort(self) -> None:
        # A bound method, so that a stream keeps its engine from being forgotten.
        self._worker.wake()

    def _check(self, request: Request) -> None:
        if os.getpid() != self._pid:
            raise EngineUnavailable("the engine was made before a fork: it lives in the parent")
        if not request.prompt_ids:
            raise InvalidRequest("`prompt` must not be empty", field="prompt")
        if len(request.prompt_ids) >= self.context_size:
            raise ContextOverflow(len(request.prompt_ids), self.context_size)
        vocab_size = self.tokenizer.vocab_size
        if not all(0 <= token_id < vocab_size for token_id in request.prompt_ids):
            raise InvalidRequest(
                f"`prompt` has a token id outside 0 to {vocab_size - 1}", field="prompt"
            )
        if request.can_shift and not self._can_shift and self._may_outgrow(request):
            raise InvalidRequest(
                "prompt and `n_predict` exceed the context, and the positions of this model cannot "
                "be shifted",
                field="n_predict",
            )
        if request.slot is not None and not 0 <= request.slot < self.num_slots:
            raise InvalidRequest(f"`slot` must be between 0 and {self.num_slots - 1}", field="slot")

    def _may_outgrow(self, request: Request) -> bool:
        limit = request.max_tokens
        return limit is not None and len(request.prompt_ids) + limit > self.context_size


def load_engine(config: EngineConfig | str, *, progress: bool = True) -> Engine:
    """Load a model and start an engine on it.

    `config` is an `EngineConfig`, or just the model: a folder, a hub id, a GGUF file, or "demo".
    Raises `ModelLoadError` saying what is wrong with the model.
    """
    config = EngineConfig(model=config) if isinstance(config, str) else config
    if config.threads is not None:  # NOTE: torch knows one number for the whole process
        torch.set_num_threads(config.threads)
    model = load_model(config, progress=progress)
    runner = ModelRunner(
        model.module,
        num_slots=config.num_slots,
        context_size=config.context_size or model.train_context,
        device=model.device,
    )
    return Engine(runner, Tokenizer(model.tokenizer, eos_ids=model.eos_ids), config, model)
