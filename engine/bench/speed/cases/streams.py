"""Several streams at once: tokens a second of all, and what a long prompt does to the others.

In: sizes and precisions. Out: cases of 1, 4, 8 and 16 streams, and of eight that one more joins.
"""

from __future__ import annotations

from dataclasses import dataclass

from speed.cases.answers import limits_of
from speed.plan import Case, Place, Scope, Setup
from speed.record import LIMIT, Readings
from speed.sides.base import Work

SIDES = ("libertai", "llama.cpp", "generate", "generate_batch", "limits")
MOST = 16
PROMPT, NEW = 16, 24
LATE_AFTER = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """`streams` short prompts at once. The time is that of the whole call."""

    setup: Setup
    streams: int
    group: str = "streams"

    @property
    def label(self) -> str:
        """How many."""
        return f"{self.streams} streams" if self.streams > 1 else "1 stream"

    @property
    def x(self) -> float:
        """How many."""
        return float(self.streams)

    def run(self, place: Place) -> Readings:
        """The same prompts for all."""
        prompts = [place.prompt(self.setup.shape, PROMPT) for _ in range(self.streams)]
        work = Work(prompts=prompts, new=NEW)
        total = {}
        for name, side in place.sides.items():
            if name != "limits":
                answer = side.answer(work)
                total[name] = answer.num_tokens / answer.seconds
        if "limits" in place.sides:
            total[LIMIT] = self.limit(*limits_of(self.setup, place))
        return {"total": total}

    def limit(self, prefill: float, decode: float) -> float:
        """Tokens a second of a call whose prompts and steps each take no longer than they must.

        `prefill` and `decode` are the limits in tokens a second. A step reads all weights, and
        multiplies for each stream.
        """
        step = max(1 / decode, self.streams / prefill)
        seconds = self.streams * PROMPT / prefill + (NEW - 1) * step
        return self.streams * NEW / seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Eight streams run while a prompt of `late` tokens comes: the pauses that they see."""

    setup: Setup
    late: int
    new: int
    group: str = "joining"
    x: float | None = None

    @property
    def label(self) -> str:
        """How long a prompt."""
        return f"8 streams, {self.late} tokens join"

    def run(self, place: Place) -> Readings:
        """Pauses between steps of the eight, and the late one's first token."""
        shape = self.setup.shape
        work = Work(
            prompts=[place.prompt(shape, PROMPT) for _ in range(8)],
            new=self.new,
            late=place.prompt(shape, self.late),
            late_after=LATE_AFTER,
        )
        median, high, first = {}, {}, {}
        for name, side in place.sides.items():
            answer = side.answer(work)
            gaps = answer.gaps(range(8))
            median[name] = 1e3 * gaps[len(gaps) // 2]
            high[name] = 1e3 * gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))]
            first[name] = 1e3 * answer.first(8)
        return {"gap p50": median, "gap p99": high, "first token": first}


def cases(scope: Scope) -> list[Case]:
    """The largest and the smallest of the models."""
    found: list[Case] = []
    for model in scope.ends:
        for precision in scope.precisions:
            if precision == "fp32":
                continue
            sides = SIDES if model == "60M" else ("libertai", "llama.cpp", "limits")
            many = Setup(model=model, precision=precision, sides=sides, num_slots=MOST)
            found += [Streams(setup=many, streams=streams) for streams in (1, 4, 8, 16)]
    return found


def joining(scope: Scope) -> list[Case]:
    """bf16 only."""
    if "bf16" not in scope.precisions:
        return []
    return [
        Joined(
            setup=Setup(
                model=model,
                precision="bf16",
                sides=("libertai", "llama.cpp"),
                num_slots=9,
                context_size=2048,
            ),
            late=1024 if model == "60M" else 512,
            new=64 if model == "60M" else 24,
        )
        for model in scope.ends
    ]
