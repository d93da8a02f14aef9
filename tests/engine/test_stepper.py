"""Drafts change nothing but the number of steps: every answer is the one without them.

The models compute in float64, so that a token does not depend on how many are evaluated with it.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_engine.errors import GenerationFailed
from libertai_engine.model.batch import Batch
from libertai_engine.model.runner import ModelRunner
from libertai_engine.sampling_params import SAMPLERS, SamplingParams
from libertai_engine.sequence import Finish, FinishReason, Request, Sequence
from libertai_engine.speculation import StepReport
from libertai_engine.stream import Stream
from libertai_engine.text.tokenizer import Tokenizer
from tests.fakes import VOCAB_SIZE, random_model

CONTEXT = 96
SLOTS = 3
GRAMMARS = (
    'root ::= "a" [a-z ]* "z"?',
    'root ::= "{" [0-9]+ ("," [0-9]+)* "}"',
    'root ::= ("the quick brown fox " | "jumps over ")+ "!"',
)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


class Seer:
    """Drafts what it was told, by the seed of the request: right, wrong, nonsense or too long."""

    def __init__(self) -> None:
        self.known: dict[int, list[int]] = {}
        self.dice = random.Random(0)
        self.num_accepted = self.num_drafted = 0

    def plan(
        self, sequences: Several[Sequence], room: int, num_forced: int = 0
    ) -> list[tuple[int, ...]]:
        """A draft for each, whatever the room is."""
        return [self._draft(each) for each in sequences]

    def settle(self, report: StepReport) -> None:
        """Count."""
        self.num_drafted += sum(each.num_drafted for each in report.verdicts)
        self.num_accepted += sum(each.num_accepted for each in report.verdicts)

    def _draft(self, sequence: Sequence) -> tuple[int, ...]:
        dice = self.dice
        coming = self.known.get(sequence.seed, [])[sequence.num_generated :]
        noise = [dice.randrange(VOCAB_SIZE) for _ in range(dice.choice((0, 1, 3, 150)))]
        kind = dice.choice(("right", "cut", "wrong", "noise", "none"))
        if kind == "none":
            return ()
        if kind == "noise":
            return tuple(noise)
        if kind == "cut":
            return tuple(coming[: dice.randrange(1, 9)])
        if kind == "wrong" and coming:
            place = dice.randrange(min(6, len(coming)))
            coming[place] = dice.randrange(VOCAB_SIZE)
        return tuple(coming + noise)


class Lanes(ModelRunner):
    """A real runner that knows the tokens it was given, and may be told to wait or to fail."""

    hold: threading.Event | None = None
    nan_behind: int | None = None  # a token behind which there are no numbers

    def run(self, batch: Batch) -> torch.Tensor:
        """Logits `[wanted logits, vocab]`."""
        if self.hold is not None:
            self.hold.wait()
        logits = super().run(batch)
        tokens = [each for row in batch.rows for each in row.token_ids[-row.num_logits :]]
        if self.nan_behind is not None and all(row.num_logits for row in batch.rows):
            logits[[each == self.nan_behind for each in tokens]] = math.nan
        return logits


@dataclass(frozen=True)
class Pair:
    """The same model twice: without drafts, and with a seer's."""

    plain: Engine
    drafting: Engine
    seer: Seer
    lanes: Lanes


def make_engine(
    module: torch.nn.Module, tokenizer: Tokenizer, speculator: object
) -> tuple[Engine, Lanes]:
    lanes = Lanes(module, num_slots=SLOTS, context_size=CONTEXT, device="cpu")
    config = EngineConfig(num_slots=SLOTS, batch_size=64, max_draft=0)
    return Engine(lanes, tokenizer, config, None, speculator), lanes


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Iterator[Tokenizer]:
    config = EngineConfig(model=str(tiny_model), num_slots=1, context_size=64)
    with load_engine(config, progress=False) as engine:
        yield engine.tokenizer


@pytest.fixture(scope="module", params=["llama", "gemma3_text"])
def pair(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Iterator[Pair]:
    seer = Seer()
    modules = [
        random_model(request.param, seed=3, vocab_size=VOCAB_SIZE).double() for _ in range(2)
    ]
    plain, _ = make_engine(modules[0], tokenizer, None)
    drafting, lanes = make_engine(modules[1], tokenizer, seer)
    with plain, drafting:
        yield Pair(plain, drafting, seer, lanes)


@dataclass(frozen=True)
class Answer:
    """All that a reader gets."""

    text: str
    tokens: list[int]
    probs: list[float]
    finish: Finish


def read(stream: Stream) -> Answer:
    deltas = list(stream)
    tokens = [each for delta in deltas for each in delta.tokens]
    finish = deltas[-1].finish
    assert finish is not None
    told = [p for each in tokens for _, p in each.probs]
    told += [each.logprobs.chosen for each in tokens if each.logprobs is not None]
    text = "".join(delta.text for delta in deltas)
    return Answer(text, [each.token_id for each in tokens], told, finish)


def assert_same(answer: Answer, expected: Answer) -> None:
    assert (answer.text, answer.tokens) == (expected.text, expected.tokens)
    assert answer.probs == pytest.approx(expected.probs, abs=1e-5)
    counted = replace(answer.finish, num_drafted=0, num_accepted=0, timings=expected.finish.timings)
    assert counted == replace(expected.finish, slot=counted.slot)


def random_sampling(dice: random.Random, seed: int) -> SamplingParams:
    """Any of the samplers, often several."""

    def maybe(value: float, neutral: float) -> float:
        return value if dice.random() < 0.4 else neutral

    return SamplingParams(
        seed=seed,
        temperature=dice.choice((0.0, 0.0, 0.3, 0.8, 1.5)),
        top_k=dice.choice((0, 5, 40)),
        top_p=maybe(0.7, 1.0),
        min_p=maybe(0.05, 0.0),
        tfs_z=maybe(0.9, 1.0),
        typical_p=maybe(0.8, 1.0),
        repeat_penalty=maybe(1.3, 1.0),
        penalty_window=dice.choice((-1, 0, 4, 64)),
        presence_penalty=maybe(0.5, 0.0),
        frequency_penalty=maybe(0.5, 0.0),
        mirostat=dice.choice((0, 0, 0, 1, 2)),
        ignore_eos=dice.random() < 0.5,
        logit_bias=((dice.randrange(VOCAB_SIZE), dice.choice((-math.inf, -2.0, 4.0))),),
        num_probs=dice.choice((0, 0, 3)),
        num_logprobs=dice.choice((None, None, 2)),
        samplers=SAMPLERS if dice.random() < 0.7 else ("penalties", "top_k", "temperature"),
        dynatemp_range=maybe(0.3, 0.0),
        top_n_sigma=maybe(2.0, -1.0),
        xtc_probability=maybe(0.5, 0.0),
        dry_multiplier=maybe(0.8, 0.0),
    )


def random_request(dice: random.Random, seed: int, engine: Engine) -> Request:
    grammar = None
    kind = dice.random()
    if kind < 0.3:
        grammar = engine.grammars.gbnf(dice.choice(GRAMMARS))
    elif kind < 0.4:
        grammar = engine.grammars.json_schema(SCHEMA)
    limit = dice.choice((1, 2, 7, 20, 20, 40, 60, 90))
    closes = grammar is not None and limit >= 40 and dice.random() < 0.5
    return Request(
        prompt_ids=tuple(dice.randrange(3, VOCAB_SIZE) for _ in range(dice.randrange(1, 40))),
        sampling=random_sampling(dice, seed),
        max_tokens=limit if dice.random() < 0.9 else None,
        cache_prompt=dice.random() < 0.7,
        can_shift=dice.random() < 0.5,
        num_keep=dice.choice((0, 3)),
        grammar=grammar,
        closes_grammar=closes,
    )


def stops_in(dice: random.Random, text: str) -> tuple[str, ...]:
    """A word that is somewhere in the text."""
    if len(text) < 2:
        return ()
    start = dice.randrange(len(text))
    return (text[start : start + dice.randrange(1, 5)], "never~there")


def cases(pair: Pair, numbers: range) -> Iterator[tuple[Request, Answer]]:
    """Random requests and their answers without drafts; the seer gets to know those."""
    for number in numbers:
        dice = random.Random(number)
        request = random_request(dice, number, pair.plain)
        answer = read(pair.plain.submit(request))
        if dice.random() < 0.5:
            pair.seer.known[number] = answer.tokens  # as it goes on behind the stop word
            request = replace(request, stop=stops_in(dice, answer.text))
            answer = read(pair.plain.submit(replace(request, slot=answer.finish.slot)))
        pair.seer.known.setdefault(number, answer.tokens)
        yield request, answer


def test_drafts_of_any_kind_change_no_answer(pair: Pair) -> None:
    """Random requests, one after the other, against right, wrong, long and senseless drafts."""
    before = pair.seer.num_accepted
    for request, expected in cases(pair, range(40)):
        uncached = replace(request, cache_prompt=False)
        answer = read(pair.drafting.submit(uncached))
        assert_same(answer, replace(expected, finish=replace(expected.finish, num_cached=0)))
    assert pair.seer.num_accepted > before + 100, "hardly any draft was right"


def test_drafts_change_no_answer_beside_others(pair: Pair) -> None:
    """Random requests all at once, in slots whose lanes end in what was rejected before."""
    known = list(cases(pair, range(200, 220)))
    streams = [pair.drafting.submit(request) for request, _ in known]
    for stream, (_, expected) in zip(streams, known, strict=True):
        answer = read(stream)
        finish = replace(expected.finish, num_cached=answer.finish.num_cached)
        assert_same(answer, replace(expected, finish=finish))


def test_a_slot_is_continued_behind_rejected_drafts(pair: Pair) -> None:
    """What a lane holds after drafts is cache for exactly the tokens of the answer."""
    num_seen = 0
    for request, _ in cases(pair, range(300, 314)):
        first = replace(request, slot=1, can_shift=False, cache_prompt=False, stop=())
        answer = read(pair.drafting.submit(first))
        written = (*request.prompt_ids, *answer.tokens)
        if len(answer.tokens) < answer.finish.num_generated or len(written) + 8 > CONTEXT:
            continue  # the last token has no text; no room
        num_seen += 1
        follow = Request(
            prompt_ids=(*written, 9, 10, 11),
            sampling=SamplingParams(temperature=0.0, num_probs=3),
            max_tokens=4,
            slot=1,
        )
        cached = read(pair.drafting.submit(follow))
        assert cached.finish.num_cached == answer.finish.num_in_cache
        fresh = read(pair.plain.submit(replace(follow, cache_prompt=False)))
        assert (cached.tokens, cached.text) == (fresh.tokens, fresh.text)
        assert cached.probs == pytest.approx(fresh.probs, abs=1e-6)
    assert num_seen > 3


def seen(pair: Pair, request: Request) -> Answer:
    """An answer without drafts, which the seer will draft from now on, whole."""
    expected = read(pair.plain.submit(request))
    assert request.sampling.seed is not None
    pair.seer.known[request.sampling.seed] = expected.tokens
    return expected


class Perfect(Seer):
    """A seer that is always right."""

    def _draft(self, sequence: Sequence) -> tuple[int, ...]:
        return tuple(self.known[sequence.seed][sequence.num_generated :])


@pytest.fixture(scope="module")
def perfect(tokenizer: Tokenizer) -> Iterator[Pair]:
    seer = Perfect()
    modules = [random_model("llama", seed=5, vocab_size=VOCAB_SIZE).double() for _ in range(2)]
    plain, _ = make_engine(modules[0], tokenizer, None)
    drafting, lanes = make_engine(modules[1], tokenizer, seer)
    with plain, drafting:
        yield Pair(plain, drafting, seer, lanes)


def free(seed: int, max_tokens: int) -> Request:
    sampling = SamplingParams(seed=seed, temperature=1.0, ignore_eos=True)
    return Request(
        prompt_ids=(5, 6, 7, 8), sampling=sampling, max_tokens=max_tokens, cache_prompt=False
    )


def test_right_drafts_save_steps(perfect: Pair) -> None:
    """Forty tokens in three steps: the prompt's, all that was drafted, and what is left."""
    request = free(seed=1, max_tokens=40)
    expected = seen(perfect, request)
    before = perfect.drafting.totals
    answer = read(perfect.drafting.submit(request))
    assert_same(answer, expected)
    after = perfect.drafting.totals
    assert after.num_steps - before.num_steps == 2
    assert after.num_generated - before.num_generated == 40
    assert (answer.finish.num_drafted, answer.finish.num_accepted) == (38, 38)
    assert after.num_drafted - before.num_drafted == 38
    assert after.num_accepted - before.num_accepted == 38


@pytest.mark.parametrize("length", [1, 2, 3, 10, 37])
def test_an_answer_ends_inside_a_draft_where_it_would_have(perfect: Pair, length: int) -> None:
    """A stop word completed within an accepted run drops the rest, also from the lane."""
    request = free(seed=2, max_tokens=40)
    whole = seen(perfect, request)
    text = perfect.plain.tokenizer.decode(whole.tokens[:length])
    stopping = replace(request, stop=(text[-2:],), slot=0)
    expected = read(perfect.plain.submit(stopping))
    answer = read(perfect.drafting.submit(stopping))
    assert expected.finish.reason is FinishReason.WORD
    assert_same(answer, expected)
    assert perfect.drafting.slots[0].num_tokens == answer.finish.num_in_cache


def test_an_error_inside_a_draft_comes_behind_what_was_right(perfect: Pair) -> None:
    """A position without numbers fails the request; the tokens before it were delivered."""
    request = free(seed=4, max_tokens=30)
    whole = seen(perfect, request)
    fatal = next(each for each in whole.tokens[10:] if each not in whole.tokens[:10])
    place = whole.tokens.index(fatal)
    perfect.lanes.nan_behind = fatal
    try:
        got: list[int] = []
        with pytest.raises(GenerationFailed):
            for delta in perfect.drafting.submit(request):
                got += [each.token_id for each in delta.tokens]
    finally:
        perfect.lanes.nan_behind = None
    assert got == whole.tokens[: place + 1]
    assert_same(read(perfect.drafting.submit(request)), whole)


def test_who_leaves_in_the_middle_of_a_draft_leaves_a_sound_slot(perfect: Pair) -> None:
    """A request that is aborted between two steps with drafts; the next one in its slot."""
    request = replace(free(seed=6, max_tokens=60), slot=2)
    expected = seen(perfect, request)
    known = expected.tokens
    perfect.seer.known[6] = [*known[:20], 3, *known[21:]]  # wrong once, so that two steps are left
    stream = perfect.drafting.submit(request)
    next(stream)
    perfect.lanes.hold = threading.Event()
    stream.abort()
    perfect.lanes.hold.set()
    perfect.lanes.hold = None
    perfect.seer.known[6] = known
    assert_same(read(perfect.drafting.submit(request)), expected)
    again = read(perfect.drafting.submit(replace(request, cache_prompt=True)))
    assert again.tokens == known and again.finish.num_cached == len(request.prompt_ids) - 1


def test_drafts_leave_room_for_prompts(tokenizer: Tokenizer) -> None:
    """Beside a prompt that fills the step, drafts get two of its 64 tokens, and answers hold."""
    module = random_model("llama", seed=5, vocab_size=VOCAB_SIZE).double()
    sizes: list[tuple[int, int]] = []

    class Watched(Lanes):
        def run(self, batch: Batch) -> torch.Tensor:
            drafted = sum(max(0, row.num_logits - 1) for row in batch.rows)
            sizes.append((batch.num_tokens, drafted))
            return super().run(batch)

    lanes = Watched(module, num_slots=2, context_size=512, device="cpu")
    seer = Perfect()
    seer.known = {1: [7] * 300, 2: [8] * 300}
    config = EngineConfig(num_slots=2, batch_size=64, max_draft=0)
    with Engine(lanes, tokenizer, config, None, seer) as engine:
        lanes.hold = threading.Event()
        writing = engine.submit(free(seed=1, max_tokens=30))
        prompt = replace(free(seed=2, max_tokens=2), prompt_ids=(9,) * 400)
        reading = engine.submit(prompt)
        lanes.hold.set()
        read(writing), read(reading)
    mixed = [drafted for tokens, drafted in sizes if tokens == 64]
    assert max(tokens for tokens, _ in sizes) == 64
    assert len(mixed) >= 5 and max(mixed) == 1


class Foreteller:
    """Drafts all that a grammar lets foresee."""

    def __init__(self) -> None:
        self.num_saved = self.num_accepted = 0

    def plan(
        self, sequences: Several[Sequence], room: int, num_forced: int = 0
    ) -> list[tuple[int, ...]]:
        """Whatever it costs."""
        return [each.foreseen(each.draft_room) for each in sequences]

    def settle(self, report: StepReport) -> None:
        """Count."""
        self.num_saved += sum(each.num_saved for each in report.verdicts)
        self.num_accepted += sum(each.num_accepted for each in report.verdicts)


@pytest.mark.parametrize("forces", [True, False])
def test_what_a_grammar_lets_foresee_changes_no_answer(tokenizer: Tokenizer, forces: bool) -> None:
    """Behind forced text and instead of it, sampled in any way; it saves the steps it says."""
    foreteller = Foreteller()
    engines = []
    for speculator in (None, foreteller):
        module = random_model("llama", seed=5, vocab_size=VOCAB_SIZE).double()
        lanes = ModelRunner(module, num_slots=SLOTS, context_size=CONTEXT, device="cpu")
        config = EngineConfig(num_slots=SLOTS, batch_size=64, max_draft=0, forces_tokens=forces)
        engines.append(Engine(lanes, tokenizer, config, None, speculator))
    plain, drafting = engines
    names = ["first", "second", "third"]
    schema = {
        "type": "object",
        "properties": {name: {"enum": ["strong", "weak"]} for name in names},
        "required": names,
    }
    with plain, drafting:
        for seed in range(30):
            request = random_request(random.Random(seed), seed, plain)
            if seed % 2:
                grammar = plain.grammars.json_schema(schema, is_compact=seed % 4 == 1)
                request = replace(request, grammar=grammar, max_tokens=80, closes_grammar=False)
            uncached = replace(request, cache_prompt=False, slot=seed % SLOTS)
            answer, expected = read(drafting.submit(uncached)), read(plain.submit(uncached))
            assert_same(answer, expected)
        num_saved = plain.totals.num_steps - drafting.totals.num_steps
    assert 0 < num_saved == foreteller.num_saved <= foreteller.num_accepted
    if not forces:
        assert num_saved > 100


def test_text_that_repeats_itself_takes_fewer_steps(tokenizer: Tokenizer) -> None:
    """The engine's own drafts: the same tokens, and each that was right is a step less."""
    totals, answers = [], []
    for max_draft in (0, 15):
        module = random_model("llama", seed=3, vocab_size=VOCAB_SIZE).double()
        # A step takes longer than asking the grammar, as with models of any use.
        module.register_forward_pre_hook(lambda *_: time.sleep(0.01))
        lanes = ModelRunner(module, num_slots=1, context_size=512, device="cpu")
        config = EngineConfig(num_slots=1, forces_tokens=False, max_draft=max_draft)
        with Engine(lanes, tokenizer, config, None) as engine:
            request = Request(
                prompt_ids=(5, 6, 7),
                sampling=SamplingParams(seed=1, temperature=0.0, repeat_penalty=1.0),
                max_tokens=200,
                grammar=engine.grammars.gbnf('root ::= ("the quick brown fox jumps over ")+ "."'),
            )
            answers.append(read(engine.submit(request)))
            # What is unwelcome for a request is not drafted.
            without = read(engine.submit(replace(request, max_draft=0)))
            totals.append(engine.totals)
        assert (without.tokens, without.finish.num_drafted) == (answers[0].tokens, 0)
    plain, drafting = totals
    assert_same(answers[1], answers[0])
    assert 0 < drafting.num_accepted == plain.num_steps - drafting.num_steps
    assert answers[1].finish.num_accepted == drafting.num_accepted
