"""The thread that owns an embedding model: rows of several requests, taken together by length.

In: rows of token ids through `submit`, from any thread. Out: futures of their vectors. One batch at
a time, and each begins with another request, so a long list does not keep a short one waiting.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Protocol

import torch

from libertai_engine.errors import EngineUnavailable, GenerationFailed

logger = logging.getLogger(__name__)

Row = Sequence[int]


class Encodes(Protocol):
    """What the thread needs of the model room (see `Encoder`)."""

    def encode(self, rows: Sequence[Row]) -> torch.Tensor:
        """Vectors `[row, dimension]`, float32, on the CPU."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingTotals:
    """What was embedded so far: texts, their tokens (without padding), seconds of the model."""

    num_texts: int = 0
    num_tokens: int = 0
    num_steps: int = 0
    seconds: float = 0.0


class _Job:
    """One request: its rows, the longest first, and the vectors that are there already.

    Invariant: `order[done:]` are the rows still to do; vectors are `[row, dimension]`.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
        self.num_taken = 0
        self.num_done = 0
        self.vectors: torch.Tensor | None = None
        self.future: Future[torch.Tensor] = Future()

    @property
    def is_over(self) -> bool:
        """Nothing is left to take, or nobody waits for it."""
        return self.num_taken == len(self.rows) or self.future.done()

    def take(self, room: _Room) -> list[int]:
        """Indices of the next rows, as many as there is room for."""
        first = self.num_taken
        while self.num_taken < len(self.rows) and room.admit(self._next_length):
            self.num_taken += 1
        return self.order[first : self.num_taken]

    @property
    def _next_length(self) -> int:
        return len(self.rows[self.order[self.num_taken]])

    def put(self, indices: Sequence[int], vectors: torch.Tensor) -> None:
        """Some vectors are there; with the last of them the request is answered."""
        if not torch.isfinite(vectors).all():
            self.fail(GenerationFailed("the model's numbers for this text are not finite"))
            return
        if self.vectors is None:
            self.vectors = torch.empty(len(self.rows), vectors.shape[1])
        self.vectors[list(indices)] = vectors
        self.num_done += len(indices)
        if self.num_done == len(self.rows) and self.future.set_running_or_notify_cancel():
            self.future.set_result(self.vectors)

    def fail(self, error: Exception) -> None:
        """Tell whoever waits, once."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class _Room:
    """How much a batch can still take. Its first row always fits.

    Invariant: with two rows or more, there are at most `budget` tokens, padding included, and at
    most as much padding as text.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._num_rows = self._longest = self._num_tokens = 0

    def admit(self, length: int) -> bool:
        """Take a row of this length in, if it fits."""
        padded = (self._num_rows + 1) * max(self._longest, length)
        if self._num_rows and padded > min(self._budget, 2 * (self._num_tokens + length)):
            return False
        self._num_rows += 1
        self._longest = max(self._longest, length)
        self._num_tokens += length
        return True


class _Batch:
    """Rows of one or several jobs that are evaluated together."""

    def __init__(self, jobs: Iterable[_Job], budget: int) -> None:
        room = _Room(budget)
        taken = [(job, job.take(room)) for job in jobs]
        self.parts = [(job, indices) for job, indices in taken if indices]

    def rows(self) -> list[Row]:
        """All rows, part by part."""
        return [job.rows[index] for job, indices in self.parts for index in indices]


class EmbeddingWorker:
    """The thread that owns an embedding model.

    Invariant: only this thread runs the encoder; every job is answered in the end. Jobs take turns:
    each batch begins with another one, so none waits longer than a batch of each other.
    """

    def __init__(self, encoder: Encodes, *, batch_tokens: int, max_queue: int) -> None:
        self.totals = EmbeddingTotals()
        self._encoder = encoder
        self._batch_tokens = batch_tokens
        self._max_queue = max_queue
        self._jobs: deque[_Job] = deque()
        # NOTE: a C queue and a C lock, for the same reason as in `worker`.
        self._inbox: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.RLock()
        self._num_open = 0
        self._is_closing = False
        self._thread = threading.Thread(target=self._loop, name="libertai-embed", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """False once it is closed or its thread has died."""
        return self._thread.is_alive() and not self._is_closing

    @property
    def num_open(self) -> int:
        """Requests that wait or run."""
        return self._num_open

    def submit(self, rows: Sequence[Row]) -> Future[torch.Tensor]:
        """Queue rows of at least one token each. Raises `EngineUnavailable` if full or closed."""
        job = _Job(rows)
        with self._lock:
            if not self.is_alive:
                raise EngineUnavailable("the embedding model is closed")
            if self._num_open >= self._max_queue:
                raise EngineUnavailable("the queue for embeddings is full, try again later")
            self._num_open += 1
            job.future.add_done_callback(self._count_down)
            self._inbox.put(job)
        return job.future

    def close(self) -> None:
        """Stop after the batch that runs now; open requests end with `EngineUnavailable`."""
        with self._lock:
            self._is_closing = True
            self._inbox.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _count_down(self, _: Future[torch.Tensor]) -> None:
        with self._lock:
            self._num_open -= 1

    def _loop(self) -> None:
        try:
            while self._wait_for_work():
                self._step()
        except Exception:
            logger.exception("the embedding thread died")
        finally:
            with self._lock:
                self._is_closing = True
            self._take_new(wait=False)
            for job in self._jobs:
                job.fail(EngineUnavailable("the embedding model is closed"))

    def _wait_for_work(self) -> bool:
        self._take_new(wait=not self._jobs)
        return not self._is_closing

    def _take_new(self, *, wait: bool) -> None:
        try:
            while True:
                job = self._inbox.get(block=wait)
                wait = False
                if job is not None:
                    self._jobs.append(job)
        except Empty:
            pass

    def _step(self) -> None:
        batch = _Batch((job for job in self._jobs if not job.future.done()), self._batch_tokens)
        self._jobs.rotate(-1)
        if batch.parts:
            self._run(batch)
        self._jobs = deque(job for job in self._jobs if not job.is_over)

    def _run(self, batch: _Batch) -> None:
        begun = time.perf_counter()
        rows = batch.rows()
        try:
            vectors = self._encoder.encode(rows)
        except Exception as error:  # whatever the model threw, one request is to blame
            self._run_one_by_one(batch, error)
            return
        self._count(rows, time.perf_counter() - begun)
        start = 0
        for job, indices in batch.parts:
            self._hand_out(job, indices, vectors[start : start + len(indices)])
            start += len(indices)

    def _run_one_by_one(self, batch: _Batch, error: Exception) -> None:
        """Repeat a failed batch request by request, so that only the one at fault fails."""
        logger.error("a batch of embeddings failed: %r", error)
        for job, indices in batch.parts:
            try:
                vectors = self._encoder.encode([job.rows[index] for index in indices])
            except Exception:
                logger.exception("the embedding model failed")
                job.fail(GenerationFailed("the model failed on this request"))
            else:
                self._hand_out(job, indices, vectors)

    def _hand_out(self, job: _Job, indices: Sequence[int], vectors: torch.Tensor) -> None:
        try:
            job.put(indices, vectors)
        except Exception:  # no memory for all of its vectors, for one
            logger.exception("a request's embeddings cannot be kept")
            job.fail(GenerationFailed("the embeddings of this request could not be kept"))

    def _count(self, rows: Sequence[Row], seconds: float) -> None:
        old = self.totals
        self.totals = EmbeddingTotals(
            num_texts=old.num_texts + len(rows),
            num_tokens=old.num_tokens + sum(map(len, rows)),
            num_steps=old.num_steps + 1,
            seconds=old.seconds + seconds,
        )
