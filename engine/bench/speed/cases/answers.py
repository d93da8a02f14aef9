"""One stream: how fast a prompt is read, how fast an answer is written, by precision.

In: sizes and precisions. Out: cases of a prompt and an answer, beside the machine's limits.
"""

from __future__ import annotations

from dataclasses import dataclass

from speed.plan import Case, Place, Scope, Setup
from speed.record import LIMIT, Readings
from speed.sides.base import Answer, Work

SIDES = ("libertai", "llama.cpp", "limits")


@dataclass(frozen=True, slots=True, kw_only=True)
class OneAnswer:
    """A prompt of `prompt` tokens, answered with `new` ones."""

    setup: Setup
    prompt: int
    new: int
    group: str = "answers"
    x: float | None = None

    @property
    def label(self) -> str:
        """Sizes."""
        return f"{self.prompt} + {self.new} tokens"

    def run(self, place: Place) -> Readings:
        """The same prompt for all."""
        work = Work(prompts=[place.prompt(self.setup.shape, self.prompt)], new=self.new)
        prefill, decode = {}, {}
        for name, side in place.sides.items():
            if name != "limits":
                answer: Answer = side.answer(work)
                prefill[name], decode[name] = self.prompt / answer.first(), answer.rate()
        if "limits" in place.sides:
            prefill[LIMIT], decode[LIMIT] = limits_of(self.setup, place)
        return {"prefill": prefill, "decode": decode}


def limits_of(setup: Setup, place: Place) -> tuple[float, float]:
    """Tokens a second of prompts and of one stream that the machine allows at most."""
    limits = place.sides["limits"]
    flop: float = limits.call("throughput", setup.precision)
    num_bytes: float = limits.call("bandwidth")
    return flop / setup.shape.matrix_flop, num_bytes / setup.bytes_a_step


def cases(scope: Scope) -> list[Case]:
    """fp32 and `generate`, whose steps are its own, with the smallest model only."""
    return [
        OneAnswer(
            setup=Setup(
                model=model,
                precision=precision,
                sides=(*SIDES, "generate") if model == "60M" else SIDES,
            ),
            prompt=256,
            new=32 if model == "60M" else 16,
        )
        for model in scope.models
        for precision in scope.precisions
        if precision != "fp32" or model == "60M"
    ]
