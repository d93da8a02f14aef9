"""The engine as its users see it: load a model, submit requests, read streams.

In: an `EngineConfig`, then `Request`s from any thread or event loop. Out: `Stream`s of deltas.
The work is done by the `Worker`'s thread.
"""

from __future__ import annotations

import asyncio
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from libertai_engine.config import MAX_DRAFT, EngineConfig
from libertai_engine.errors import (
    ContextOverflow,
    EngineUnavailable,
    InvalidRequest,
    SlotFileError,
)
from libertai_engine.grammar.compiler import GrammarCompiler
from libertai_engine.grammar.vocabulary import TokenFacts, TokenVocabulary
from libertai_engine.model.features import FeatureTable
from libertai_engine.model.images import Blindness, ImageReader
from libertai_engine.model.loader import LoadedModel, load_model
from libertai_engine.model.runner import ModelRunner
from libertai_engine.model.slot_file import SlotFile, read_slot_file, write_slot_file
from libertai_engine.model.vision import Vision
from libertai_engine.prefixes import StoredPrefix
from libertai_engine.processors import settle
from libertai_engine.sequence import Request, Sequence
from libertai_engine.slots import SlotPool
from libertai_engine.speculation import AdaptiveSpeculator, Speculator
from libertai_engine.stepper import Runner
from libertai_engine.stream import Stream
from libertai_engine.tally import Totals
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.worker import Load, SlotStatus, Worker


class Engine:
    """A model, its slots and the thread that runs them.

    Safe to use from many threads and event loops at once. Closing it (or forgetting it, or leaving
    the interpreter) ends every open stream. An engine does not survive `os.fork`: use it in the
    process that made it. `grammars` compiles what a `Request` is to be held to.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        config: EngineConfig,
        model: LoadedModel | None,
        speculator: Speculator | None = None,
    ) -> None:
        """`speculator` drafts in place of the one that `config` asks for."""
        self.tokenizer = tokenizer
        self.config = config
        self.model = model
        self._num_slots, self._context_size = runner.num_slots, runner.context_size
        self._can_shift = runner.can_shift
        # NOTE: some tokenizers have added tokens that the model has no embedding for.
        self._vocab_size = min(tokenizer.vocab_size, runner.vocab_size)
        self._fingerprint = runner.fingerprint
        self._pid = os.getpid()
        self._worker = Worker(
            runner,
            batch_size=config.batch_size,
            max_queue=config.max_queue,
            store_bytes=config.prefix_store_bytes,
            speculator=speculator or _speculator(config, runner),
            prefill_seconds=config.prefill_ms / 1e3,
        )
        self.grammars = GrammarCompiler(partial(token_vocabulary, tokenizer, runner.vocab_size))
        self._finalizer = weakref.finalize(self, self._worker.close)

    @property
    def name(self) -> str:
        """What the model is called on the wire."""
        return self.config.alias or (self.model.name if self.model else self.config.model)

    @property
    def vision(self) -> ImageReader | Blindness | None:
        """What reads images for the model: None for one of text alone."""
        return self.model.vision if self.model else None

    @property
    def sees_images(self) -> bool:
        """True if requests may show images."""
        return not isinstance(self.vision, Blindness | None)

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

    @property
    def totals(self) -> Totals:
        """What was done since the engine was started."""
        return self._worker.totals

    @property
    def slots(self) -> list[SlotStatus]:
        """How far each slot is now."""
        return self._worker.slots

    def submit(self, *requests: Request) -> Stream:
        """Queue one request, or several that one reader follows.

        Iterate the stream, sync or async, for their deltas, told apart by their `index`. Raises
        `ContextOverflow` if a prompt leaves no room for a token, `InvalidRequest` for a slot or
        token id out of range or a context shift that this model cannot do, `EngineUnavailable` if
        the queue is full or the engine is closed.
        """
        for request in requests:
            self._check(request)
        if not self._can_shift:  # where the context ends, so does the answer
            requests = tuple(replace(each, can_shift=False) for each in requests)
        stream = Stream(on_abort=self._on_abort, num_sequences=len(requests))
        sequences = [self._sequence(each) for each in requests]
        self._worker.submit(sequences, stream)
        return stream

    def _sequence(self, request: Request) -> Sequence:
        forces = self.config.forces_tokens
        return Sequence(request, self.tokenizer, self.context_size, forces_tokens=forces)

    def save_slot(self, slot: int, path: Path) -> SlotFile:
        """Write what a slot holds to a safetensors file, as soon as nobody runs in it.

        Raises `InvalidRequest` for a slot out of range, `SlotFileError` if it cannot be written.
        """
        return self._write(path, self._save(slot).result())

    async def asave_slot(self, slot: int, path: Path) -> SlotFile:
        """`save_slot` without blocking the event loop; cancelled in time, it does nothing."""
        prefix = await asyncio.wrap_future(self._save(slot))
        return await asyncio.to_thread(self._write, path, prefix)

    def _save(self, slot: int) -> Future[StoredPrefix[Any]]:
        return self._on_slot(slot, lambda slots: slots.save(slot))

    def _write(self, path: Path, prefix: StoredPrefix[Any]) -> SlotFile:
        return write_slot_file(path, prefix.token_ids, prefix.copy, self._fingerprint)

    def restore_slot(self, slot: int, path: Path) -> SlotFile:
        """Fill a slot from a file that `save_slot` wrote with the same model.

        The slot stays as it is if the file is missing, broken, too long or another model's:
        `SlotFileError` (400) says so.
        """
        prefix, about = self._read(path)
        with _as_slot_error():
            self._restore(slot, prefix).result()
        return about

    async def arestore_slot(self, slot: int, path: Path) -> SlotFile:
        """`restore_slot` without blocking the event loop; cancelled in time, it does nothing."""
        prefix, about = await asyncio.to_thread(self._read, path)
        with _as_slot_error():
            await asyncio.wrap_future(self._restore(slot, prefix))
        return about

    def _read(self, path: Path) -> tuple[StoredPrefix[Any], SlotFile]:
        token_ids, copy, about = read_slot_file(path, self._fingerprint, self.context_size)
        return StoredPrefix(token_ids, copy), about

    def _restore(self, slot: int, prefix: StoredPrefix[Any]) -> Future[None]:
        return self._on_slot(slot, lambda slots: slots.restore(slot, prefix))

    def erase_slot(self, slot: int) -> int:
        """Forget what a slot holds; returns the number of tokens."""
        return self._erase(slot).result()

    async def aerase_slot(self, slot: int) -> int:
        """`erase_slot` without blocking the event loop; cancelled in time, it does nothing."""
        return await asyncio.wrap_future(self._erase(slot))

    def _erase(self, slot: int) -> Future[int]:
        return self._on_slot(slot, lambda slots: slots.erase(slot))

    def _on_slot(self, slot: int, work: Callable[[SlotPool[Any]], Any]) -> Future[Any]:
        self._check_slot(slot)
        return self._worker.submit_job(slot, work)

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.num_slots:
            raise InvalidRequest(f"`slot` must be between 0 and {self.num_slots - 1}", field="slot")

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
        vocab_size = self._vocab_size
        shown = {each for image in request.images for each in image.vector_ids}
        if not all(0 <= each < vocab_size or each in shown for each in request.prompt_ids):
            raise InvalidRequest(
                f"`prompt` has a token id outside 0 to {vocab_size - 1}", field="prompt"
            )
        if request.can_shift and not self._can_shift and self._may_outgrow(request):
            raise InvalidRequest(
                "prompt and `n_predict` exceed the context, and the positions of this model cannot "
                "be shifted",
                field="n_predict",
            )
        if request.slot is not None:
            self._check_slot(request.slot)
        if request.closes_grammar and request.max_tokens != 0:
            self._check_completion(request)

    def _check_completion(self, request: Request) -> None:
        """An answer that is to be completed needs room for the shortest one that is known."""
        completion = request.grammar.completion if request.grammar else ()
        if completion is None:
            message = "no answer that the grammar allows was found, so none can be completed"
            raise InvalidRequest(f"`close_grammar`: {message}", field="close_grammar")
        limit, needed = request.max_tokens, len(completion)
        if limit is not None and limit < needed:
            raise InvalidRequest(
                f"`n_predict` must be at least {needed}, or `close_grammar` false: the shortest "
                "answer that is known to the grammar has so many tokens",
                field="n_predict",
            )
        # An answer without a limit ends with the context, whether that could be shifted or not.
        is_final = limit is None or not request.can_shift
        if is_final and len(request.prompt_ids) + needed > self.context_size:
            raise ContextOverflow(len(request.prompt_ids) + needed, self.context_size)

    def _may_outgrow(self, request: Request) -> bool:
        limit = request.max_tokens
        return limit is not None and len(request.prompt_ids) + limit > self.context_size


@contextmanager
def _as_slot_error() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        message = f"Unable to restore slot: {error}"
        raise SlotFileError(message, field="filename") from error


def _speculator(config: EngineConfig, runner: Runner) -> Speculator | None:
    by_default = MAX_DRAFT if runner.is_steady else 0
    max_draft = by_default if config.max_draft is None else config.max_draft
    return AdaptiveSpeculator(max_draft) if max_draft else None


def load_engine(config: EngineConfig | str, *, progress: bool | None = None) -> Engine:
    """Load a model and start an engine on it.

    `config` is an `EngineConfig`, or just the model: a folder, a hub id, a GGUF file, or "demo".
    A progress bar goes to stderr; by default only if that is a terminal.
    Raises `ModelLoadError` saying what is wrong with the model.
    """
    config = EngineConfig(model=config) if isinstance(config, str) else config
    settle(config.threads, config.cpus)
    model = load_model(config, progress=sys.stderr.isatty() if progress is None else progress)
    eyes = model.vision if isinstance(model.vision, Vision) else None
    runner = ModelRunner(
        model.module,
        num_slots=config.num_slots,
        context_size=config.context_size or model.train_context,
        device=model.device,
        features=FeatureTable(eyes.features, config.feature_bytes) if eyes else None,
        kernels=config.kernels,
    )
    return Engine(runner, Tokenizer(model.tokenizer, eos_ids=model.eos_ids), config, model)


def token_vocabulary(tokenizer: Tokenizer, size: int) -> TokenVocabulary:
    """The tokens that grammars are matched in; takes a second for a hundred thousand of them."""
    facts = TokenFacts(
        pieces=[tokenizer.token_bytes(each) for each in range(tokenizer.vocab_size)],
        control=tokenizer.control_tokens,
        end_ids=tokenizer.eos_ids,
        encode=tokenizer.encode_behind,
        find=tokenizer.find_token,
    )
    return TokenVocabulary(facts, size)
