"""How much is drafted: much where it pays, next to nothing where it does not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from libertai_engine.config import EngineConfig
from libertai_engine.engine import load_engine
from libertai_engine.lookup import Draft
from libertai_engine.sampling.sampler import SampledToken
from libertai_engine.sampling_params import SamplingParams
from libertai_engine.sequence import Request, Sequence
from libertai_engine.speculation import AdaptiveSpeculator, StepReport, Verdict
from libertai_engine.step_costs import StepCosts
from libertai_engine.text.tokenizer import Tokenizer

PLAIN = 0.1  # seconds
Cost = Callable[[int], float]  # of a step with so many drafted tokens, in plain steps


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Iterator[Tokenizer]:
    with load_engine(EngineConfig(model=str(tiny_model)), progress=False) as engine:
        yield engine.tokenizer


@dataclass
class Oracle:
    """A drafter that always has a draft, which was matched by so many tokens."""

    num_matched: int = 3
    known: list[int] = field(default_factory=list)

    def learn(self, token_ids: Several[int]) -> None:
        self.known += token_ids

    def draft(self, limit: int) -> Draft:
        return Draft((50,) * limit, self.num_matched)


class Bench:
    """Runs sequences against a speculator with a clock and luck of its own; no model."""

    def __init__(
        self, tokenizer: Tokenizer, speculator: AdaptiveSpeculator, cost: Cost, luck: float
    ) -> None:
        self.speculator, self.cost, self.luck = speculator, cost, luck
        self.dice = random.Random(1)
        self.seconds = 0.0
        self.num_steps = self.num_drafted = 0
        self._tokenizer = tokenizer

    def sequence(
        self, max_draft: int | None = None, *, kind: type[Sequence] = Sequence
    ) -> Sequence:
        """One that has its first token."""
        request = Request(
            prompt_ids=(5, 6, 7),
            sampling=SamplingParams(temperature=0.0, ignore_eos=True),
            max_tokens=100_000,
            max_draft=max_draft,
        )
        sequence = kind(request, self._tokenizer, 200_000)
        sequence.accept(SampledToken(60))
        return sequence

    def step(self, sequences: list[Sequence], room: int = 100) -> list[int]:
        """One step; returns the lengths of the drafts."""
        drafts = self.speculator.plan(sequences, room)
        lengths = [len(each) for each in drafts]
        verdicts = []
        for sequence, length in zip(sequences, lengths, strict=True):
            num_right = 0
            while num_right < length and self.dice.random() < self.luck:
                num_right += 1
            for _ in range(num_right + 1):
                sequence.accept(SampledToken(60))
            verdicts.append(Verdict(sequence, length, num_right, num_right))
        seconds = PLAIN * self.cost(sum(lengths)) * self.dice.uniform(0.97, 1.03)
        self.speculator.settle(
            StepReport(tuple(verdicts), len(sequences) + sum(lengths), True, seconds, seconds)
        )
        self.seconds += seconds
        self.num_steps += 1
        self.num_drafted += sum(lengths)
        return lengths

    def speed(self, num_tokens: int, num_sequences: int = 1) -> float:
        """Times the speed of plain steps, in answers of so many tokens."""
        sequences = [self.sequence() for _ in range(num_sequences)]
        begun, before = self.seconds, sum(each.num_generated for each in sequences)
        while min(each.num_generated for each in sequences) <= num_tokens:
            self.step(sequences)
        made = sum(each.num_generated for each in sequences) - before
        return made * PLAIN / num_sequences / (self.seconds - begun)


def flat(num_drafted: int) -> float:
    """Memory-bound: tokens cost next to nothing."""
    return 1 + 0.03 * num_drafted


def dear(num_drafted: int) -> float:
    """Compute-bound: a token costs a step."""
    return 1 + num_drafted


def cliff(num_drafted: int) -> float:
    """Anything more than one token runs in another way, at twice the time."""
    return 1.0 if not num_drafted else 2 + 0.02 * num_drafted


def adaptive(num_matched: int) -> AdaptiveSpeculator:
    return AdaptiveSpeculator(15, new_drafter=lambda: Oracle(num_matched))


@pytest.mark.parametrize("num_matched", [3, 8, 20])
@pytest.mark.parametrize("cost", [flat, dear, cliff])
@pytest.mark.parametrize("num_sequences", [1, 4])
def test_drafts_that_are_never_right_cost_little(
    tokenizer: Tokenizer, num_matched: int, cost: Cost, num_sequences: int
) -> None:
    """However similar the places look: less than 3 % of the time of 200 tokens."""
    bench = Bench(tokenizer, adaptive(num_matched), cost, luck=0.0)
    bench.speed(50)  # an engine that has seen other answers
    assert bench.speed(200, num_sequences) > 0.97


class Foreseeing(Sequence):
    """One whose grammar takes half of a step to ask, and tells nothing."""

    def foreseen(self, limit: int) -> tuple[int, ...]:
        Foreseeing.seconds += PLAIN / 2
        return ()

    seconds = 0.0


class Mute(Oracle):
    """A drafter without drafts."""

    def draft(self, limit: int) -> Draft:
        return Draft()


@pytest.mark.parametrize("num_sequences", [1, 4])
def test_grammars_that_foresee_nothing_cost_little(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, num_sequences: int
) -> None:
    """Looking takes time as well: less than 3 % of that of 200 tokens."""
    monkeypatch.setattr(Foreseeing, "seconds", 0.0)
    speculator = AdaptiveSpeculator(15, new_drafter=Mute, clock=lambda: Foreseeing.seconds)
    bench = Bench(tokenizer, speculator, flat, luck=0.0)
    sequences = [bench.sequence(kind=Foreseeing) for _ in range(num_sequences)]
    for _ in range(200):
        bench.step(sequences)
    assert 0 < Foreseeing.seconds < 0.03 * bench.seconds


@pytest.mark.parametrize(
    ("cost", "luck", "least"),
    [(flat, 0.97, 4.0), (flat, 0.8, 2.5), (flat, 0.4, 1.3), (cliff, 0.97, 3.0), (dear, 0.97, 0.98)],
)
def test_drafts_that_are_right_save_time(
    tokenizer: Tokenizer, cost: Cost, luck: float, least: float
) -> None:
    """As much as there is to be saved, nearly: the sum of luck's powers over the step's cost."""
    bench = Bench(tokenizer, adaptive(9), cost, luck)
    bench.speed(100)
    assert bench.speed(400) > least


def test_streams_share_what_a_step_has_room_for(tokenizer: Tokenizer) -> None:
    """Sixteen tokens in all; the lucky ones get them; a full step drafts nothing."""
    bench = Bench(tokenizer, adaptive(9), flat, luck=0.95)
    sequences = [bench.sequence() for _ in range(6)]
    bench.step(sequences)
    for _ in range(20):
        assert sum(bench.step(sequences)) <= 10
    assert bench.num_drafted
    assert sum(bench.step(sequences, room=3)) <= 3
    many = [bench.sequence() for _ in range(16)]
    assert [sum(bench.step(many)) for _ in range(5)] == [0] * 5


def test_a_request_may_ask_for_less(tokenizer: Tokenizer) -> None:
    """A limit of its own, or none at all; the engine's limit holds too."""
    bench = Bench(tokenizer, adaptive(9), flat, luck=1.0)
    sequences = [bench.sequence(max_draft=each) for each in (0, 2, 99)]
    lengths = [bench.step(sequences) for _ in range(40)]
    assert {none for none, _, _ in lengths} == {0}
    assert max(few for _, few, _ in lengths) == 2
    assert 2 < max(many for _, _, many in lengths) <= 15


def test_a_drafter_learns_prompt_and_answer_in_order(tokenizer: Tokenizer) -> None:
    """A long prompt takes several steps; what was generated meanwhile comes behind it."""
    oracles: list[Oracle] = []

    def new() -> Oracle:
        oracles.append(Oracle())
        return oracles[-1]

    bench = Bench(tokenizer, AdaptiveSpeculator(15, new_drafter=new), flat, luck=0.5)
    bench.step([bench.sequence()])
    prompt_ids = tuple(range(3, 390)) * 12
    request = Request(prompt_ids=prompt_ids, max_tokens=1000)
    sequence = Sequence(request, tokenizer, 200_000)
    sequence.accept(SampledToken(60))
    lengths = [bench.step([sequence]) for _ in range(6)]
    assert lengths[:2] == [[0], [0]] and lengths[2] != [0]
    bench.speculator.plan([sequence], 100)
    assert oracles[-1].known == sequence.token_ids


def test_costs_between_measurements_are_in_proportion() -> None:
    """Nothing is known of other numbers of rows; beyond the last one a guess goes on."""
    costs = StepCosts()
    costs.observe(1, 4, 9.0)  # worth nothing without a plain step
    assert costs.of(1, 0) is None
    for _ in range(60):
        costs.observe(1, 0, 1.0)
        costs.observe(1, 4, 2.0)
    assert costs.of(1, 0) == pytest.approx(1.0)
    assert costs.of(1, 2) == pytest.approx(1.5, abs=0.01)
    assert costs.of(1, 6) == pytest.approx(2.1, abs=0.01)
    assert costs.of(2, 0) is None
    assert (costs.reach(1), costs.reach(2)) == (8, 1)


def test_one_slow_step_does_not_end_drafting() -> None:
    """A measurement that is a hundred times too long counts for three, and is made up for."""
    costs = StepCosts()
    costs.observe(1, 0, 1.0)
    costs.observe(1, 3, 100.0)
    cost = costs.of(1, 3)
    assert cost is not None and cost < 2.5
    for _ in range(5):
        costs.observe(1, 3, 1.1)
    cost = costs.of(1, 3)
    assert cost is not None and cost < 1.4
