"""Runs cases: starts the sides, gives each the same work in turns, round after round.

In: cases. Out: a `Report`. Whatever disturbs the machine disturbs all sides alike; who begins
changes from round to round.
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
from speed.process import Process, SideFailed
from speed.record import OURS, Report, Row, collect
from speed.shelf import Shelf
from speed.sides.base import Load

# A side, and the module without which it is not there.
NEEDS = {"llama.cpp": "llama_cpp", "llama.cpp sampler": "llama_cpp"}
HAS_NO_MODEL = {"limits", "sampler", "llama.cpp sampler"}
NO_INTEGERS = {"generate", "generate_batch"}  # sides without integer weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a run is done: `seconds` is when a case may end with fewer than `rounds` rounds."""

    rounds: int
    seconds: float
    threads: int
    folder: Path
    peers: frozenset[str]


def run(
    cases: Sequence[Case], terms: Terms, machine: dict[str, str], tick: Callable[[str], None]
) -> Report:
    """All cases; `tick` is told each one's name when it is done. What cannot be is skipped."""
    rows: list[Row] = []
    skipped: list[str] = []
    shelf = Shelf(terms.folder)
    for setup, group in itertools.groupby(cases, key=lambda case: case.setup):
        together = list(group)
        try:
            with _opened(setup, terms, shelf, skipped) as sides:
                for case in together:
                    rows += _contest(case, sides, terms, shelf)
                    tick(f"{case.group}: {setup.model} {setup.precision} {case.label}")
        except SideFailed as error:
            skipped.append(f"{setup.model} {setup.precision}, {together[0].group}: {error}")
            for case in together:
                tick(f"skipped: {setup.model} {setup.precision} {case.label}")
    return Report(machine=machine, rows=rows, skipped=list(dict.fromkeys(skipped)))


@contextmanager
def _opened(
    setup: Setup, terms: Terms, shelf: Shelf, skipped: list[str]
) -> Iterator[Mapping[str, Process]]:
    """The processes of a setup with their models, those that can be had."""
    if setup.precision not in DTYPES:
        raise SideFailed(f"libertai: the engine has no dtype {setup.precision}")
    with ExitStack() as stack:
        sides: dict[str, Process] = {}
        for name in setup.sides:
            if not _is_there(name, setup, terms):
                continue
            side = stack.enter_context(Process(name, terms.threads))
            try:
                side.call("load", _load_of(name, setup, terms, shelf))
            except SideFailed as error:
                if name == OURS:
                    raise
                skipped.append(str(error))
            else:
                sides[name] = side
        yield sides


def _is_there(name: str, setup: Setup, terms: Terms) -> bool:
    if name in NO_INTEGERS and setup.precision.startswith("int"):
        return False
    peer = name.partition(" sampler")[0]
    if peer in ("llama.cpp", "generate", "generate_batch") and peer not in terms.peers:
        return False
    return name not in NEEDS or find_spec(NEEDS[name]) is not None


def _load_of(name: str, setup: Setup, terms: Terms, shelf: Shelf) -> Load:
    is_bare = name in HAS_NO_MODEL
    return Load(
        model="" if is_bare else str(shelf.find(name, setup.model, setup.precision)),
        precision=setup.precision,
        threads=terms.threads,
        num_slots=setup.num_slots,
        context_size=setup.context_size,
        options=dict(setup.options),
    )


def _contest(case: Case, sides: Mapping[str, Process], terms: Terms, shelf: Shelf) -> list[Row]:
    """All rounds of a case behind one that warms up."""

    @contextmanager
    def started(name: str, setup: Setup) -> Iterator[Process | None]:
        if not _is_there(name, setup, terms):
            yield None
            return
        with Process(name, terms.threads) as side:
            side.call("load", _load_of(name, setup, terms, shelf))
            yield side

    draw = random.Random(0)
    rounds = []
    begin = time.perf_counter()
    for number in range(terms.rounds + 1):
        names = list(sides) if number % 2 else list(reversed(sides))
        place = Place(
            sides={name: sides[name] for name in names},
            draw=draw,
            folder=terms.folder,
            started=started,
        )
        rounds.append(case.run(place))
        if number and time.perf_counter() - begin > terms.seconds:
            break
    setup = case.setup
    return collect(
        rounds[1:],
        group=case.group,
        model=setup.model,
        precision=setup.precision,
        case=case.label,
        x=case.x,
    )
