"""What an engine counts: each token once, and each second."""

from __future__ import annotations

import time

import pytest

from libertai_engine.sampling.sampler import SampledToken
from libertai_engine.scheduler import Scheduler
from libertai_engine.sequence import Request, Sequence
from libertai_engine.slots import SlotPool
from libertai_engine.tally import Tally, Totals
from libertai_engine.text.tokenizer import Tokenizer
from tests.engine.test_slots import LaneCopy, RecordingLanes
from tests.fakes import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tiny_tokenizer())


class Bench:
    """A scheduler without a model, whose steps are counted."""

    def __init__(self, tokenizer: Tokenizer, num_slots: int, batch_size: int) -> None:
        self._tokenizer = tokenizer
        slots: SlotPool[LaneCopy] = SlotPool(RecordingLanes(), num_slots, 0)
        self._scheduler = Scheduler(slots, batch_size)
        self.tally = Tally()

    def add(self, num_tokens: int, first: int) -> None:
        prompt_ids = tuple(range(first, first + num_tokens))
        self._scheduler.add(Sequence(Request(prompt_ids=prompt_ids), self._tokenizer, 512))

    def step(self, seconds: float = 0.0) -> Totals:
        """Run a step of at least so many seconds; the totals after it."""
        step = self._scheduler.schedule()
        self.tally.begin(step)
        time.sleep(seconds)
        self._scheduler.commit(step)
        complete = [owner for owner in step.owners if owner.num_left == 0]
        self.tally.end(step, len(complete))
        for owner in complete:
            owner.sequence.accept(SampledToken(50))
        return self.tally.totals


def test_a_prompt_in_chunks_and_then_tokens(tokenizer: Tokenizer) -> None:
    """The step that ends the prompt brings the first token; later ones evaluate no prompt."""
    bench = Bench(tokenizer, num_slots=1, batch_size=4)
    bench.add(6, first=10)
    first = bench.step(0.002)
    assert (first.num_steps, first.num_prompt_tokens, first.num_generated) == (1, 4, 0)
    assert first.prompt_seconds >= 0.002 and first.generation_seconds == 0
    second = bench.step()
    assert (second.num_prompt_tokens, second.num_generated, second.most_tokens) == (6, 1, 6)
    third = bench.step(0.002)
    assert (third.num_prompt_tokens, third.num_generated, third.most_tokens) == (6, 2, 7)
    assert third.prompt_seconds == second.prompt_seconds
    assert third.generation_seconds >= 0.002
    assert (third.num_steps, third.num_busy_slots) == (3, 3)


def test_a_mixed_step_is_shared_out_by_tokens(tokenizer: Tokenizer) -> None:
    """One token is generated while three of another prompt are evaluated: a quarter and three."""
    bench = Bench(tokenizer, num_slots=2, batch_size=4)
    bench.add(3, first=10)
    before = bench.step()
    bench.add(3, first=60)
    after = bench.step(0.004)
    prompt = after.prompt_seconds - before.prompt_seconds
    generation = after.generation_seconds - before.generation_seconds
    assert prompt == pytest.approx(3 * generation) and prompt + generation >= 0.004
    assert after.num_prompt_tokens == 6 and after.num_generated == 3
    assert after.num_busy_slots == 3
