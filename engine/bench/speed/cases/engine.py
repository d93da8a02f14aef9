"""What lies around the model: choosing tokens, HTTP, starting, memory, long contexts, many slots.

In: sizes. Out: cases.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from speed.plan import Case, Place, Scope, Setup
from speed.record import OURS, Readings
from speed.sides.base import Work

WAYS = ("greedy", "all filters", "no filter")
LAST = 256  # tokens of a prompt that are evaluated anew, at the end of a long context
CONTEXTS = (1024, 4096, 8192, 16_384, 32_768)
MOST_FOR_PEERS = 8192  # tokens: they would take minutes for more
SLOTS = (1, 4, 16, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choosing:
    """A token out of 128,256, beside a decode step of the model."""

    setup: Setup
    way: str
    group: str = "sampler"
    x: float | None = None

    @property
    def label(self) -> str:
        """Which samplers."""
        return self.way

    def run(self, place: Place) -> Readings:
        """Microseconds a token of both chains and of a step."""
        names = {"sampler": OURS, "llama.cpp sampler": "llama.cpp"}
        found = {
            names[name]: float(side.call("measure", self.way))
            for name, side in place.sides.items()
            if name in names
        }
        prompt = place.prompt(self.setup.shape, 16)
        gaps = place.sides[OURS].answer(Work(prompts=[prompt], new=6)).gaps(range(1))
        found["a step of the model"] = 1e6 * gaps[len(gaps) // 2]
        return {"a token": found}


@dataclass(frozen=True, slots=True, kw_only=True)
class OverHttp:
    """Eight streams, in-process and over HTTP."""

    setup: Setup
    group: str = "http"
    label: str = "8 streams of 64 tokens"
    x: float | None = None

    def run(self, place: Place) -> Readings:
        """Tokens a second of both, and what one token takes more."""
        prompts = [place.prompt(self.setup.shape, 16) for _ in range(8)]
        work = Work(prompts=prompts, new=64)
        answers = {name: side.answer(work) for name, side in place.sides.items()}
        ours, other = answers[OURS], answers["http"]
        more = 1e3 * (other.seconds - ours.seconds) / ours.num_tokens
        total = {
            OURS: ours.num_tokens / ours.seconds,
            "over HTTP": other.num_tokens / other.seconds,
        }
        return {"total": total, "over HTTP, a token": {OURS: more}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting:
    """A process from its beginning to its first answer, and the memory that it has then."""

    setup: Setup
    names: tuple[str, ...]
    group: str = "memory"
    label: str = "start, 128 + 8 tokens"
    x: float | None = None

    def run(self, place: Place) -> Readings:
        """Sides are started here, one after another."""
        start, resident, peak = {}, {}, {}
        work = Work(prompts=[place.prompt(self.setup.shape, 128)], new=8)
        for name in self.names:
            begin = time.perf_counter()
            with place.started(name) as side:
                if side is None:
                    continue
                side.answer(work)
                start[name] = time.perf_counter() - begin
                found = side.memory()
                resident[name], peak[name] = found["resident"] / 1e6, found["peak"] / 1e6
        return {"start": start, "resident": resident, "peak": peak}


@dataclass(frozen=True, slots=True, kw_only=True)
class LongContext:
    """A decode step behind `length` tokens, and how fast the last of these are evaluated."""

    setup: Setup
    length: int
    group: str = "context"

    @property
    def label(self) -> str:
        """How many tokens."""
        return f"{self.length} tokens"

    @property
    def x(self) -> float:
        """How many tokens."""
        return float(self.length)

    def run(self, place: Place) -> Readings:
        """The same tokens in every round and case, but for the last, which nobody may know."""
        draw = random.Random(1)
        vocab = self.setup.shape.vocab
        begin = [draw.randrange(300, vocab) for _ in range(self.length - LAST)]
        ids = [*begin, *place.prompt(self.setup.shape, LAST)]
        step, prefill = {}, {}
        for name, side in place.sides.items():
            if name != OURS and self.length > MOST_FOR_PEERS:
                continue
            side.answer(Work(prompts=[begin], new=1, keeps=True))
            answer = side.answer(Work(prompts=[ids], new=12, keeps=True))
            gaps = answer.gaps(range(1))
            step[name] = 1e3 * gaps[len(gaps) // 2]
            prefill[name] = (self.length - answer.num_held[0]) / answer.first()
        return {"step": step, "prefill": prefill}


@dataclass(frozen=True, slots=True, kw_only=True)
class ManySlots:
    """One stream in an engine of many slots."""

    setup: Setup
    group: str = "slots"

    @property
    def label(self) -> str:
        """How many slots."""
        count = self.setup.num_slots
        return f"1 stream, {count} slots" if count > 1 else "1 stream, 1 slot"

    @property
    def x(self) -> float:
        """How many slots."""
        return float(self.setup.num_slots)

    def run(self, place: Place) -> Readings:
        """Tokens a second."""
        work = Work(prompts=[place.prompt(self.setup.shape, 64)], new=32)
        return {"decode": {name: side.answer(work).rate() for name, side in place.sides.items()}}


def sampler(scope: Scope) -> list[Case]:
    """Beside a step of the largest model."""
    sides = ("sampler", "llama.cpp sampler", "libertai")
    setup = Setup(model=scope.models[-1], precision="bf16", sides=sides)
    return [Choosing(setup=setup, way=way) for way in WAYS]


def http(scope: Scope) -> list[Case]:
    """The smallest model, where a token takes least."""
    sides = ("libertai", "http")
    model = scope.models[0]
    return [OverHttp(setup=Setup(model=model, precision="bf16", sides=sides, num_slots=8))]


def memory(scope: Scope) -> list[Case]:
    """Every precision but fp32; ours quantizes bf16 weights, llama.cpp reads quantized ones."""
    return [
        Starting(
            setup=Setup(model=model, precision=each, sides=(), warm_ups=0),
            names=("libertai", "llama.cpp", *(("generate",) if model == "60M" else ())),
        )
        for model in scope.ends
        for each in scope.precisions
        if each != "fp32"
    ]


def context(scope: Scope) -> list[Case]:
    """The smallest model: with larger ones attention is a smaller part. Up to 4k in a quick run."""
    lengths = CONTEXTS[:2] if scope.is_quick else CONTEXTS
    setup = Setup(
        model=scope.models[0],
        precision="bf16",
        sides=("libertai", "llama.cpp"),
        context_size=lengths[-1] + 256,
    )
    return [LongContext(setup=setup, length=length) for length in lengths]


def slots(scope: Scope) -> list[Case]:
    """The smallest model."""
    model, sides = scope.models[0], ("libertai", "llama.cpp")
    return [
        ManySlots(setup=Setup(model=model, precision="bf16", sides=sides, num_slots=count))
        for count in SLOTS
    ]
