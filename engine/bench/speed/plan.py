"""What is to be measured: cases, the processes each of them needs, and their order.

In: which groups, sizes and precisions. Out: cases, those that share processes one behind another.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from speed.process import Process
from speed.record import Readings
from speed.shapes import SHAPES, Shape

BITS = {"fp32": 32.0, "bf16": 16.0, "int8": 8.5, "int4": 4.5}  # with the scales of 32 weights
PRECISIONS = tuple(BITS)
# NOTE: random weights repeat themselves, which drafts would make the most of: plain steps here.
PLAIN = (("max_draft", 0), ("measures_quality", False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Processes that stay for several cases: who, with which model, how many streams.

    `options` are further fields of our `EngineConfig`, as a tuple of pairs; sides that do not know
    them have none. `warm_ups` are rounds of a case that do not count.
    """

    model: str
    precision: str
    sides: tuple[str, ...]
    num_slots: int = 1
    context_size: int = 1024
    options: tuple[tuple[str, Any], ...] = PLAIN
    warm_ups: int = 1

    @property
    def shape(self) -> Shape:
        """The model's."""
        return SHAPES[self.model]

    @property
    def bytes_a_step(self) -> float:
        """Of weights that a decode step reads."""
        return self.shape.num_read * BITS[self.precision] / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which models, smallest first, and precisions a run is about."""

    models: list[str]
    precisions: list[str]
    is_quick: bool = False

    @property
    def ends(self) -> list[str]:
        """The smallest and the largest model."""
        return list(dict.fromkeys([self.models[0], self.models[-1]]))


class Start(Protocol):
    """Starts a side with the setup's model: None if it cannot be had."""

    def __call__(self, name: str) -> AbstractContextManager[Process | None]:
        """A process with its model."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a case runs: its sides, in this round's order, and the folder for files."""

    sides: Mapping[str, Process]
    draw: random.Random
    folder: Path
    started: Start

    def prompt(self, shape: Shape, length: int) -> list[int]:
        """Random token ids, none of them a control token or a single byte."""
        return [self.draw.randrange(300, shape.vocab) for _ in range(length)]


class Case(Protocol):
    """Something to measure once a round, on all its sides."""

    @property
    def group(self) -> str:
        """Which part of the report it belongs to."""
        ...

    @property
    def label(self) -> str:
        """What is done, for tables."""
        ...

    @property
    def setup(self) -> Setup:
        """The processes it needs."""
        ...

    @property
    def x(self) -> float | None:
        """Its place in a series."""
        ...

    def run(self, place: Place) -> Readings:
        """One round."""
        ...
