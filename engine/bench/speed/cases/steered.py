"""Answers that are known: a form held to its schema, and quotations with prompt lookup.

In: sizes. Out: cases that compare this engine with itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from speed.plan import Case, Place, Scope, Setup
from speed.record import OURS, Readings


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One text, written in several ways; the first of `ways` is the one that is proposed."""

    setup: Setup
    group: str
    method: str
    ways: tuple[str, ...]
    x: float | None = None

    @property
    def label(self) -> str:
        """What is written."""
        return "a form of 20 fields" if self.group == "constrained" else "an answer that quotes"

    def run(self, place: Place) -> Readings:
        """Each way once, in turns."""
        side = place.sides["steered"]
        is_even = list(place.sides)[0] == "steered"
        ways = self.ways if is_even else tuple(reversed(self.ways))
        told = {way: side.call(self.method, way) for way in ways}
        names = {way: OURS if way == self.ways[0] else way for way in self.ways}
        answer = {names[way]: 1e3 * told[way]["seconds"] for way in self.ways}
        steps = {names[way]: told[way]["steps"] for way in self.ways}
        return {"answer": answer, "steps": steps}


def constrained(scope: Scope) -> list[Case]:
    """Forced text, every token sampled, no grammar."""
    ways = ("forced", "sampled", "free")
    return [_case(model, "constrained", "fill_form", ways) for model in scope.ends]


def lookup(scope: Scope) -> list[Case]:
    """With drafts out of the prompt, and without."""
    return [_case(model, "lookup", "quote", ("drafts", "plain")) for model in scope.ends]


def _case(model: str, group: str, method: str, ways: tuple[str, ...]) -> Case:
    # One round with a large model is half a minute, and its first is like all others.
    setup = Setup(
        model=model,
        precision="bf16",
        sides=("steered",),
        context_size=2048,
        warm_ups=1 if model == "60M" else 0,
    )
    return Written(setup=setup, group=group, method=method, ways=ways)
