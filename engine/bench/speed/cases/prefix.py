"""Time to the first token, of prompts of which nearly all was evaluated before.

In: sizes. Out: cases for each place where the evaluated part may lie.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from speed.plan import Case, Place, Scope, Setup
from speed.process import Process
from speed.record import OURS, Readings
from speed.sides.base import Answer, Work

TAIL = 16  # new tokens
NEW = 6
FLOOR = "a step and 16 tokens"
PLACES = ("cold", "same slot", "other slot", "host store", "restored file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """`known` tokens and a new tail. Each round has tokens of its own, so nothing is left over."""

    setup: Setup
    known: int
    where: str
    group: str = "prefix"
    x: float | None = None

    @property
    def label(self) -> str:
        """Where the known part lies."""
        return f"{self.where}, {self.known} + {TAIL} tokens"

    def run(self, place: Place) -> Readings:
        """Ours, and llama.cpp where it can keep a prompt without copies of our own making."""
        shape, ours = self.setup.shape, place.sides[OURS]
        known = place.prompt(shape, self.known)
        tails = [place.prompt(shape, TAIL) for _ in range(3)]
        first: dict[str, float] = {}
        ours.answer(_work(known + tails[0], slot=0))
        slot = self._prepare(ours, place, known)
        answer = ours.answer(_work(known + tails[1], slot=slot, keeps=self.where != "cold"))
        held = answer.num_held[0]
        if (held >= self.known) != (self.where != "cold"):
            raise RuntimeError(f"{self.label}: {held} tokens were held")
        first[OURS] = 1e3 * answer.first()
        if self.where != "cold":
            first[FLOOR] = 1e3 * self._floor(ours, answer, tails[2])
        if "llama.cpp" in place.sides and self.where in ("cold", "same slot"):
            peer = place.sides["llama.cpp"]
            if self.where != "cold":
                peer.answer(_work(known + tails[0]))
            given = _work(known + tails[1], keeps=self.where != "cold")
            first["llama.cpp"] = 1e3 * peer.answer(given).first()
        return {"first token": first}

    def _prepare(self, ours: Process, place: Place, known: list[int]) -> int:
        """Bring the known part to its place; returns the slot to ask for."""
        if self.where == "restored file":
            path = place.folder / "slot.safetensors"
            ours.call("save_slot", 0, str(path))
            self._overwrite(ours, place)
            ours.call("restore_slot", 0, str(path))
            path.unlink()
        elif self.where == "host store":
            ours.call("erase_slot", 1)
            self._overwrite(ours, place)
        return 1 if self.where in ("other slot", "host store") else 0

    def _overwrite(self, ours: Process, place: Place) -> None:
        """Give slot 0 something else to hold."""
        other = random.Random(place.draw.random())
        ids = [other.randrange(300, self.setup.shape.vocab) for _ in range(self.known)]
        ours.answer(_work(ids, slot=0, keeps=True))

    def _floor(self, ours: Process, answer: Answer, tail: list[int]) -> float:
        """Seconds of a decode step of that answer, and of the tail evaluated alone."""
        gaps = answer.gaps(range(1))
        return gaps[len(gaps) // 2] + ours.answer(_work(tail, slot=1)).first()


def _work(ids: list[int], *, slot: int | None = None, keeps: bool = False) -> Work:
    return Work(prompts=[ids], new=NEW, slot=slot, keeps=keeps)


def cases(scope: Scope) -> list[Case]:
    """The smallest and the largest model, in bf16."""
    if "bf16" not in scope.precisions:
        return []
    return [
        Prefix(
            setup=Setup(
                model=model,
                precision="bf16",
                sides=("libertai", "llama.cpp"),
                num_slots=2,
                context_size=2048,
            ),
            known=1024 if model == "60M" else 256,
            where=where,
        )
        for model in scope.ends
        for where in PLACES
    ]
