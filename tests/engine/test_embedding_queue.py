"""The embedding thread: fair, bounded, and it always answers everybody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from libertai_engine.embedding_queue import EmbeddingWorker
from libertai_engine.errors import EngineUnavailable, GenerationFailed

BUDGET = 100
POISON, NAN = 666, 999


class RecordingEncoder:
    """A row's vector is its first token and its length; remembers the batches it was given.

    Invariant: it waits for `gate` before each batch. A row with `POISON` raises, one with `NAN`
    gets numbers that are none.
    """

    def __init__(self) -> None:
        self.batches: list[list[Sequence[int]]] = []
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        self.gate.wait(10)
        self.batches.append(list(rows))
        if any(POISON in row for row in rows):
            raise RuntimeError("out of memory")
        numbers = [[torch.nan if NAN in row else row[0], len(row)] for row in rows]
        return torch.tensor(numbers, dtype=torch.float32)


@pytest.fixture
def encoder() -> RecordingEncoder:
    return RecordingEncoder()


@pytest.fixture
def worker(encoder: RecordingEncoder) -> Iterator[EmbeddingWorker]:
    made = EmbeddingWorker(encoder, batch_tokens=BUDGET, max_queue=4)
    yield made
    encoder.gate.set()
    made.close()


def rows_of(*lengths: int, token: int = 1) -> list[list[int]]:
    return [[token + index] * length for index, length in enumerate(lengths)]


@given(lengths=st.lists(st.integers(1, 150), min_size=1, max_size=40))
def test_every_row_gets_its_own_vector_within_the_budget(lengths: list[int]) -> None:
    """In the order of the request; no batch is larger than it may be, or half of it padding."""
    encoder = RecordingEncoder()
    worker = EmbeddingWorker(encoder, batch_tokens=BUDGET, max_queue=4)
    rows = rows_of(*lengths)
    vectors = worker.submit(rows).result(10)
    worker.close()
    assert vectors.tolist() == [[row[0], len(row)] for row in rows]
    for batch in encoder.batches:
        padded = len(batch) * max(map(len, batch))
        assert len(batch) == 1 or padded <= min(BUDGET, 2 * sum(map(len, batch)))
    assert worker.totals.num_texts == len(rows)
    assert worker.totals.num_tokens == sum(lengths)
    assert worker.totals.num_steps == len(encoder.batches)


def test_a_short_request_does_not_wait_for_a_long_list(
    worker: EmbeddingWorker, encoder: RecordingEncoder
) -> None:
    """It comes after two batches of the list at most, not after all thirty."""
    encoder.gate.clear()
    long = worker.submit(rows_of(*[50] * 60))
    short = worker.submit(rows_of(40, token=500))
    encoder.gate.set()
    assert short.result(10).tolist() == [[500, 40]]
    place = next(i for i, batch in enumerate(encoder.batches) if batch[0][0] == 500)
    assert place <= 2
    assert len(long.result(10)) == 60


def test_requests_of_a_kind_share_a_batch(
    worker: EmbeddingWorker, encoder: RecordingEncoder
) -> None:
    """Four callers with one query each cost one step."""
    encoder.gate.clear()
    first = worker.submit(rows_of(90))
    time.sleep(0.05)  # the thread now holds the first batch
    others = [worker.submit(rows_of(10, token=10 * n)) for n in (1, 2, 3)]
    encoder.gate.set()
    assert [each.result(10)[0, 0] for each in others] == [10, 20, 30]
    assert first.result(10).shape == (1, 2)
    assert [len(batch) for batch in encoder.batches] == [1, 3]


def test_a_full_queue_says_so(worker: EmbeddingWorker, encoder: RecordingEncoder) -> None:
    """503 beats an endless wait; who was let in is answered, and then there is room again."""
    encoder.gate.clear()
    waiting = [worker.submit(rows_of(5)) for _ in range(4)]
    assert worker.num_open == 4
    with pytest.raises(EngineUnavailable, match="full"):
        worker.submit(rows_of(5))
    encoder.gate.set()
    assert all(each.result(10).shape == (1, 2) for each in waiting)
    assert worker.submit(rows_of(5)).result(10).shape == (1, 2)
    assert worker.num_open == 0


def test_who_leaves_costs_nothing_more(worker: EmbeddingWorker, encoder: RecordingEncoder) -> None:
    """A cancelled list is dropped after the batch that runs, and counts as closed at once."""
    encoder.gate.clear()
    long = worker.submit(rows_of(*[50] * 60))
    other = worker.submit(rows_of(7, token=500))
    assert long.cancel() and worker.num_open == 1
    encoder.gate.set()
    assert other.result(10).tolist() == [[500, 7]]
    assert len(encoder.batches) <= 2


def test_only_the_request_at_fault_fails(
    worker: EmbeddingWorker, encoder: RecordingEncoder
) -> None:
    """Beside it in the batch others are repeated by themselves; the thread lives on."""
    encoder.gate.clear()
    worker.submit(rows_of(90))
    time.sleep(0.05)
    good = worker.submit(rows_of(10, token=10))
    bad = worker.submit([[POISON] * 10])
    nan = worker.submit([[NAN] * 10])
    encoder.gate.set()
    assert good.result(10).tolist() == [[10, 10]]
    for future in (bad, nan):
        with pytest.raises(GenerationFailed):
            future.result(10)
    assert worker.is_alive and worker.num_open == 0


def test_closing_answers_everybody(encoder: RecordingEncoder) -> None:
    """What runs, what waits, and who comes later."""
    worker = EmbeddingWorker(encoder, batch_tokens=BUDGET, max_queue=4)
    encoder.gate.clear()
    open_ones = [worker.submit(rows_of(*[50] * 10)) for _ in range(3)]
    closing = threading.Thread(target=worker.close)
    closing.start()
    encoder.gate.set()
    closing.join(10)
    for future in open_ones:
        with pytest.raises(EngineUnavailable):
            future.result(10)
    with pytest.raises(EngineUnavailable, match="closed"):
        worker.submit(rows_of(1))
    assert not worker.is_alive


def test_many_threads_at_once() -> None:
    """Each gets its own answer, however they were put together."""
    worker = EmbeddingWorker(RecordingEncoder(), batch_tokens=BUDGET, max_queue=64)
    answers: dict[int, Future[torch.Tensor]] = {}

    def ask(number: int) -> None:
        answers[number] = worker.submit(rows_of(3, 1 + number, token=100 * number))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 33)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, future in answers.items():
        expected = [[100 * number, 3], [100 * number + 1, 1 + number]]
        assert future.result(10).tolist() == expected
    worker.close()
