"""The one thread that owns the model: it makes step after step and delivers what comes of them.

In: sequences through `submit`, from any thread. Out: deltas into their streams. The loop waits
while there is nothing to do; an error reaches every reader it concerns, and nobody else.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Several
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from libertai_engine.errors import EngineUnavailable, GenerationFailed, InvalidRequest
from libertai_engine.pacing import Pacer
from libertai_engine.scheduler import Running, Scheduler
from libertai_engine.sequence import Sequence
from libertai_engine.slots import SlotJob, SlotPool
from libertai_engine.speculation import Speculator
from libertai_engine.stepper import News, Runner, Stepper
from libertai_engine.stream import Stream
from libertai_engine.tally import Totals

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How busy the engine is."""

    num_idle_slots: int
    num_running: int
    num_waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotStatus:
    """One slot: tokens in its lane, and how far the sequence in it is (0 if it is idle)."""

    index: int
    is_busy: bool
    num_tokens: int
    num_prompt_tokens: int
    num_generated: int


class Worker:
    """The engine's thread and everything only it may touch.

    Invariant: runner, scheduler and sequences are used by this thread alone; other threads reach
    it through `submit`, `wake` and `close`. Every submitted stream is closed in the end.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        batch_size: int,
        max_queue: int,
        store_bytes: int,
        speculator: Speculator | None = None,
        prefill_seconds: float = 0.0,
    ) -> None:
        self._slots: SlotPool[Any] = SlotPool(runner, runner.num_slots, store_bytes)
        pacer = Pacer(batch_size, prefill_seconds)
        self._scheduler = Scheduler(self._slots, batch_size, speculator, pacer)
        self._stepper = Stepper(runner, self._scheduler, speculator)
        self._streams: dict[Sequence, Stream] = {}
        self._capacity = runner.num_slots + max_queue
        self._inbox: deque[tuple[Sequence, Stream]] = deque()
        self._jobs: list[SlotJob] = []
        # NOTE: no `threading.Condition`: a Ctrl-C inside its Python code can leave it locked for
        # ever. A C lock in a `with` and a C queue as the bell cannot be broken like that.
        self._lock = threading.RLock()
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._is_closing = False
        self._thread = threading.Thread(target=self._loop, name="libertai-engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """False once the engine is closed or its thread has died."""
        return self._thread.is_alive() and not self._is_closing

    @property
    def load(self) -> Load:
        """A snapshot, taken without waiting for the thread."""
        num_running = len(self._scheduler.running)
        return Load(
            num_idle_slots=self._slots.num_idle,
            num_running=num_running,
            num_waiting=max(0, self._num_open - num_running),
        )

    @property
    def _num_open(self) -> int:
        """Sequences that were submitted and have not ended."""
        return len(self._inbox) + len(self._streams)

    @property
    def totals(self) -> Totals:
        """What has been done so far."""
        return self._stepper.totals

    @property
    def slots(self) -> list[SlotStatus]:
        """A snapshot of every slot, taken without waiting for the thread."""
        running = {each.slot.index: each.sequence for each in list(self._scheduler.running)}
        statuses = []
        for index, num_tokens in enumerate(self._slots.num_tokens):
            sequence = running.get(index)
            statuses.append(
                SlotStatus(
                    index=index,
                    is_busy=sequence is not None,
                    num_tokens=num_tokens,
                    num_prompt_tokens=sequence.num_prompt_tokens if sequence else 0,
                    num_generated=sequence.num_generated if sequence else 0,
                )
            )
        return statuses

    def submit(self, sequences: Several[Sequence], stream: Stream) -> None:
        """Queue all or none. Raises `EngineUnavailable` if the queue is full or closed, and
        `InvalidRequest` if they are more than it ever holds."""
        if len(sequences) > self._capacity:
            message = f"`prompt` must hold at most {self._capacity} prompts on this engine"
            raise InvalidRequest(message, field="prompt")
        with self._lock:
            if not self.is_alive:
                raise EngineUnavailable("the engine is closed")
            if self._num_open + len(sequences) > self._capacity:
                raise EngineUnavailable("the queue is full, try again later")
            self._inbox.extend((sequence, stream) for sequence in sequences)
        self.wake()

    def submit_job(self, slot: int, work: Callable[[SlotPool[Any]], Any]) -> Future[Any]:
        """Have `work` done with the slots as soon as nobody runs in `slot`."""
        job = SlotJob(slot, work, Future())
        with self._lock:
            if not self.is_alive:
                raise EngineUnavailable("the engine is closed")
            self._jobs.append(job)
        self.wake()
        return job.done

    def wake(self) -> None:
        """Have the thread look again (somebody came or left)."""
        self._bell.put(None)

    def close(self) -> None:
        """Stop after the step that runs now; open streams end with `EngineUnavailable`."""
        self._is_closing = True
        self.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _loop(self) -> None:
        try:
            while self._wait_for_work():
                self.step()
        except Exception:
            logger.exception("the engine's thread died")
        finally:
            self._end_everything()

    def _wait_for_work(self) -> bool:
        # A ring between the look and the wait is still in the bell: the wait then ends at once.
        while not (self._is_closing or self._inbox or self._jobs or self._is_busy):
            self._bell.get()
        while not self._bell.empty():
            self._bell.get_nowait()
        with self._lock:
            while self._inbox:
                sequence, stream = self._inbox.popleft()
                self._streams[sequence] = stream
                self._scheduler.add(sequence)
        return not self._is_closing

    @property
    def _is_busy(self) -> bool:
        return not self._scheduler.is_idle

    def step(self) -> None:
        """One step of continuous batching."""
        self._drop_aborted()
        self._do_jobs()
        for news in self._stepper.step():
            self._deliver(news)

    def _deliver(self, news: News) -> None:
        """Hand what came of a step to the reader."""
        owner, delta, error = news.owner, news.delta, news.error
        stream = self._streams[owner.sequence]
        if error is not None or (delta is not None and delta.finish is not None):
            # NOTE: before the reader hears of it, so that his next request finds the slot free.
            self._retire(owner)
        elif not self._make_room(owner):
            return
        if delta is not None:
            stream.put(delta)
        if error is not None:
            stream.fail(error)

    def _make_room(self, owner: Running) -> bool:
        """Shift the context if it is full. False if that failed, and the request with it."""
        try:
            self._scheduler.shift(owner)
        except Exception:  # no memory, for one
            logger.exception("slot %d: the context cannot be shifted", owner.slot.index)
            stream = self._streams[owner.sequence]
            self._retire(owner)
            stream.fail(GenerationFailed("the full context could not be shifted"))
            return False
        return True

    def _retire(self, owner: Running) -> None:
        """Free the slot of a sequence that has ended."""
        self._scheduler.release(owner)
        self._forget([owner.sequence])

    def _do_jobs(self) -> None:
        with self._lock:
            jobs = [
                job
                for job in self._jobs
                if job.done.cancelled() or not self._slots.is_busy(job.slot)
            ]
            self._jobs = [job for job in self._jobs if job not in jobs]
        for job in jobs:
            job.run(self._slots)

    def _drop_aborted(self) -> None:
        self._forget(self._scheduler.remove(lambda each: self._streams[each].is_aborted))

    def _forget(self, sequences: Several[Sequence]) -> None:
        with self._lock:
            for sequence in sequences:
                del self._streams[sequence]

    def _end_everything(self) -> None:
        with self._lock:
            self._is_closing = True
            streams = [*self._streams.values(), *(stream for _, stream in self._inbox)]
            jobs, self._jobs = self._jobs, []
            self._streams.clear()
            self._inbox.clear()
        for job in jobs:
            if job.done.set_running_or_notify_cancel():
                job.done.set_exception(EngineUnavailable("the engine is closed"))
        for stream in streams:
            stream.fail(EngineUnavailable("the engine is closed"))
