"""Who runs in a step: order, budget, waiting, leaving. No model."""

from __future__ import annotations

import pytest

from libertai_engine.pacing import LEAST, Pacer
from libertai_engine.sampling.sampler import SampledToken
from libertai_engine.scheduler import FORCED, Scheduler, Step
from libertai_engine.sequence import Request, Sequence
from libertai_engine.slots import SlotPool
from libertai_engine.text.tokenizer import Tokenizer
from tests.engine.test_slots import LaneCopy, RecordingLanes
from tests.fakes import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tiny_tokenizer())


class Bench:
    """A scheduler over recording lanes, and the steps it made."""

    def __init__(
        self, tokenizer: Tokenizer, num_slots: int, batch_size: int, pacer: Pacer | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.lanes = RecordingLanes()
        slots: SlotPool[LaneCopy] = SlotPool(self.lanes, num_slots, 100)
        self.scheduler = Scheduler(slots, batch_size, pacer=pacer)

    def add(self, num_tokens: int, *, first: int = 10, slot: int | None = None) -> Sequence:
        prompt_ids = tuple(range(first, first + num_tokens))
        sequence = Sequence(Request(prompt_ids=prompt_ids, slot=slot), self.tokenizer, 512)
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> Step:
        """Schedule, put the tokens into the lanes, give every complete sequence a token."""
        step = self.scheduler.schedule()
        for row in step.batch.rows:
            held = self.lanes.held.get(row.slot, [])[: row.start]
            self.lanes.held[row.slot] = [*held, *row.token_ids]
        self.scheduler.commit(step)
        for owner in step.owners:
            if owner.num_left == 0:
                owner.sequence.accept(SampledToken(50, ()))
        return step


def shape(step: Step) -> list[tuple[int, int, int]]:
    return [(row.start, len(row.token_ids), row.num_logits) for row in step.batch.rows]


def test_a_long_prompt_is_cut_into_chunks(tokenizer: Tokenizer) -> None:
    """Chunks fill the budget; only the last one wants logits; then one token a step."""
    bench = Bench(tokenizer, num_slots=1, batch_size=4)
    bench.add(10)
    assert shape(bench.step()) == [(0, 4, 0)]
    assert shape(bench.step()) == [(4, 4, 0)]
    assert shape(bench.step()) == [(8, 2, 1)]
    assert shape(bench.step()) == [(10, 1, 1)]


def test_decoding_goes_on_beside_a_prefill(tokenizer: Tokenizer) -> None:
    """A running sequence gets its token in every step while a long prompt comes in."""
    bench = Bench(tokenizer, num_slots=2, batch_size=4)
    bench.add(2)
    bench.step()
    bench.add(9, first=30)
    assert shape(bench.step()) == [(2, 1, 1), (0, 3, 0)]
    assert shape(bench.step()) == [(3, 1, 1), (3, 3, 0)]
    assert shape(bench.step()) == [(4, 1, 1), (6, 3, 1)]


def test_a_full_set_of_decoders_does_not_starve_a_prompt(tokenizer: Tokenizer) -> None:
    """Even without budget left, a prefill moves by one token a step."""
    bench = Bench(tokenizer, num_slots=3, batch_size=2)
    bench.add(1)
    bench.add(1, first=20)
    bench.step()
    bench.add(3, first=30)
    assert shape(bench.step()) == [(1, 1, 1), (1, 1, 1), (0, 1, 0)]


def test_a_prompt_adds_no_more_time_than_it_may(tokenizer: Tokenizer) -> None:
    """Beside an answer it comes in small chunks, alone as fast as it can."""
    ticks = iter(range(1000))
    pacer = Pacer(batch_size=64, seconds=1e-3, clock=lambda: float(next(ticks)))
    bench = Bench(tokenizer, num_slots=2, batch_size=64, pacer=pacer)
    reader = bench.add(2)
    bench.step()
    bench.add(200, first=30)
    assert shape(bench.step()) == [(2, 1, 1), (0, LEAST, 0)]
    assert shape(bench.step()) == [(3, 1, 1), (LEAST, LEAST, 0)]
    bench.scheduler.remove(lambda sequence: sequence is reader)
    assert shape(bench.step()) == [(2 * LEAST, 64, 0)]


def test_short_forced_text_is_a_part_of_any_step(tokenizer: Tokenizer) -> None:
    """Whole, and no part of what prompts may add; longer text is, and goes before them."""
    ticks = iter(range(1000))
    pacer = Pacer(batch_size=64, seconds=1e-3, clock=lambda: float(next(ticks)))
    bench = Bench(tokenizer, num_slots=3, batch_size=64, pacer=pacer)
    writer, other = bench.add(2), bench.add(2, first=20)
    bench.step()
    bench.add(200, first=30)
    writer.token_ids += range(60, 65)
    assert shape(bench.step()) == [(2, 1, 1), (2, 6, 1), (0, LEAST, 0)]
    writer.token_ids += range(70, 70 + FORCED)
    assert shape(bench.step()) == [(3, 1, 1), (8, LEAST, 0)]
    assert shape(bench.step()) == [(8 + LEAST, 1, 1), (4, 1, 1), (LEAST, LEAST, 0)]
    assert other.num_generated == 4


def test_first_in_first_out(tokenizer: Tokenizer) -> None:
    """With one slot, requests run in the order they came."""
    bench = Bench(tokenizer, num_slots=1, batch_size=8)
    sequences = [bench.add(2, first=first) for first in (10, 20, 30)]
    order = []
    while not bench.scheduler.is_idle:
        step = bench.step()
        order.append(step.owners[0].sequence)
        bench.scheduler.release(step.owners[0])
    assert order == sequences


def test_waiting_for_a_slot_holds_nobody_else_up(tokenizer: Tokenizer) -> None:
    """Who waits for a busy slot he asked for is overtaken by who takes another one."""
    bench = Bench(tokenizer, num_slots=2, batch_size=8)
    first = bench.add(2, slot=0)
    bench.step()
    second = bench.add(2, first=20, slot=0)
    third = bench.add(2, first=30)
    assert [owner.sequence for owner in bench.step().owners] == [first, third]
    bench.scheduler.remove(lambda sequence: sequence is first)
    assert second in [owner.sequence for owner in bench.step().owners]


def test_removing_frees_slots_and_places_in_the_queue(tokenizer: Tokenizer) -> None:
    """Unwanted sequences go, running or waiting; the others stay as they were."""
    bench = Bench(tokenizer, num_slots=1, batch_size=8)
    running, waiting, kept = bench.add(2), bench.add(2, first=20), bench.add(2, first=30)
    bench.step()
    gone = bench.scheduler.remove(lambda sequence: sequence in (running, waiting))
    assert set(gone) == {running, waiting}
    assert [owner.sequence for owner in bench.step().owners] == [kept]


def test_who_leaves_while_the_queue_is_looked_through_is_not_lost(tokenizer: Tokenizer) -> None:
    """Readers leave at any time: a sequence is removed, or it still waits."""
    bench = Bench(tokenizer, num_slots=1, batch_size=8)
    bench.add(2)
    bench.step()
    waiting = bench.add(2, first=20)
    has_left: list[Sequence] = []

    def is_unwanted(sequence: Sequence) -> bool:
        answer = sequence in has_left
        has_left.append(sequence)  # right behind the question
        return answer

    removed = bench.scheduler.remove(is_unwanted)
    assert [*removed, *bench.scheduler.waiting] == [waiting]


def test_a_prefill_only_request_wants_no_logits(tokenizer: Tokenizer) -> None:
    """Nothing is sampled for a request that generates nothing."""
    bench = Bench(tokenizer, num_slots=1, batch_size=8)
    request = Request(prompt_ids=(1, 2, 3), max_tokens=0)
    bench.scheduler.add(Sequence(request, tokenizer, 512))
    step = bench.scheduler.schedule()
    assert shape(step) == [(0, 3, 0)]
