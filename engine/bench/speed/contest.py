"""Runs cases: starts the sides, gives each the same work in turns, round after round.

In: cases. Out: a `Report` for each. Whatever disturbs the machine disturbs all sides alike; who
begins changes from round to round.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from libertai_engine.config import DTYPES
from speed.plan import Case, Place, Setup
from speed.process import OF_OURS, Process, SideFailed
from speed.record import Readings, Report, Row, Skip, collect
from speed.shelf import Shelf
from speed.sides.base import Load

# A side, and the module without which it is not there.
NEEDS = {"llama.cpp": "llama_cpp", "llama.cpp sampler": "llama_cpp"}
HAS_NO_MODEL = {"limits", "sampler", "llama.cpp sampler"}
NO_INTEGERS = {"generate", "generate_batch"}  # sides without integer weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a run is done.

    A case has `rounds` rounds, or fewer: it ends when it is `seconds` old and has `least` of them,
    or is three times as old. `made` is kept with every figure.
    """

    rounds: int
    seconds: float
    threads: int
    folder: Path
    peers: frozenset[str]
    least: int = 3
    made: str = ""

    def is_enough(self, rounds: int, age: float) -> bool:
        """Whether a case of this age has had its rounds."""
        if rounds >= self.rounds:
            return True
        return age > self.seconds and (rounds >= self.least or age > 3 * self.seconds)


def run(
    cases: Sequence[Case], terms: Terms, machine: dict[str, str], tick: Callable[[str], None]
) -> Iterator[Report]:
    """A report for each case when it is done; `tick` is told its name.

    What fails is told in the report, and the rest goes on: without the side that failed if that is
    a peer, with the next case if it is ours.
    """
    shelf = Shelf(terms.folder)
    for setup, group in itertools.groupby(cases, key=lambda case: case.setup):
        contest = _Contest(setup, list(group), terms, shelf, tick)
        for rows, skipped in contest.run():
            yield Report(machine=machine, rows=rows, skipped=skipped)


class _Contest:
    """The cases of one setup. Invariant: `_open` are those that are neither measured nor given up.

    `_lost` are sides that failed, which the others go on without.
    """

    def __init__(
        self,
        setup: Setup,
        cases: list[Case],
        terms: Terms,
        shelf: Shelf,
        tick: Callable[[str], None],
    ) -> None:
        self._setup, self._open, self._terms = setup, cases, terms
        self._shelf, self._tick = shelf, tick
        self._lost: dict[str, str] = {}

    def run(self) -> Iterator[tuple[list[Row], list[Skip]]]:
        """What each case, or each failure, brings. After a failure all sides are started again."""
        while self._open:
            try:
                with self._opened() as sides:
                    while self._open:
                        case = self._open[0]
                        rows = self._rounds(case, sides)
                        self._end_case()
                        yield rows, [self._skip(case, told) for told in self._lost.values()]
            except Exception as error:  # a side's, or a case's that does not believe an answer
                yield [], self._fail(error)

    def _end_case(self) -> None:
        case = self._open.pop(0)
        self._tick(f"{case.group}: {self._setup.model} {self._setup.precision} {case.label}")

    def _fail(self, error: Exception) -> list[Skip]:
        """Go on without a peer, or without the case."""
        case = self._open[0]
        if isinstance(error, SideFailed) and error.side not in OF_OURS | set(self._lost):
            self._lost[error.side] = str(error)
            return []
        told = str(error) if isinstance(error, SideFailed) else f"{type(error).__name__}: {error}"
        self._end_case()
        return [self._skip(case, told)]

    def _skip(self, case: Case, reason: str) -> Skip:
        return Skip(
            group=case.group,
            model=self._setup.model,
            precision=self._setup.precision,
            case=case.label,
            reason=" ".join(reason.split())[:300],
        )

    @contextmanager
    def _opened(self) -> Iterator[Mapping[str, Process]]:
        """The processes of the setup with their models, those that can be had."""
        if self._setup.precision not in DTYPES:
            raise ValueError(f"the engine has no dtype {self._setup.precision}")
        with ExitStack() as stack:
            sides = {
                name: stack.enter_context(Process(name, self._terms.threads))
                for name in self._setup.sides
                if self._is_there(name)
            }
            for name, side in sides.items():
                side.call("load", self._load_of(name))
            yield sides

    def _is_there(self, name: str) -> bool:
        return name not in self._lost and _is_there(name, self._setup, self._terms)

    def _load_of(self, name: str) -> Load:
        setup = self._setup
        is_bare = name in HAS_NO_MODEL
        return Load(
            model="" if is_bare else str(self._shelf.find(name, setup.model, setup.precision)),
            precision=setup.precision,
            threads=self._terms.threads,
            num_slots=setup.num_slots,
            context_size=setup.context_size,
            options=dict(setup.options),
        )

    @contextmanager
    def _started(self, name: str) -> Iterator[Process | None]:
        """One side more, for a case that measures how it starts."""
        if not self._is_there(name):
            yield None
            return
        with Process(name, self._terms.threads) as side:
            side.call("load", self._load_of(name))
            yield side

    def _rounds(self, case: Case, sides: Mapping[str, Process]) -> list[Row]:
        """All rounds of a case behind those that warm up."""
        draw = random.Random(case.label)  # NOTE: another case's prompts may still be held
        rounds: list[Readings] = []
        begin = time.perf_counter()
        for number in itertools.count(1 - self._setup.warm_ups):
            names = list(sides) if number % 2 else list(reversed(sides))
            place = Place(
                sides={name: sides[name] for name in names},
                draw=draw,
                folder=self._terms.folder,
                started=self._started,
            )
            found = case.run(place)
            rounds += [found] if number > 0 else []
            if rounds and self._terms.is_enough(len(rounds), time.perf_counter() - begin):
                break
        return collect(
            rounds,
            group=case.group,
            model=self._setup.model,
            precision=self._setup.precision,
            case=case.label,
            x=case.x,
            made=self._terms.made,
        )


def _is_there(name: str, setup: Setup, terms: Terms) -> bool:
    if name in NO_INTEGERS and setup.precision.startswith("int"):
        return False
    peer = name.partition(" sampler")[0]
    if peer in ("llama.cpp", "generate", "generate_batch") and peer not in terms.peers:
        return False
    return name not in NEEDS or find_spec(NEEDS[name]) is not None
