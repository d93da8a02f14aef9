"""What was measured, as plain data: a `Row` for each figure, with the values of every round.

In: readings. Out: medians, ranges and ratios, and JSON that can be read back; reports that were
made at different times, joined to one.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OURS, LIMIT = "libertai", "limit"
# Measure of a case to its values: side to a number. "limit" is what the machine allows at most.
Readings = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Measure:
    """What a figure counts, and whether more of it is better."""

    unit: str
    is_more_better: bool


MEASURES = {
    "decode": Measure("tokens/s", True),
    "prefill": Measure("tokens/s", True),
    "total": Measure("tokens/s", True),
    "gap p50": Measure("ms", False),
    "gap p99": Measure("ms", False),
    "first token": Measure("ms", False),
    "answer": Measure("ms", False),
    "steps": Measure("of the model", False),
    "step": Measure("ms", False),
    "a token": Measure("us", False),
    "over HTTP, a token": Measure("ms", False),
    "start": Measure("s", False),
    "resident": Measure("MB", False),
    "peak": Measure("MB", False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of one case. Invariant: `values` has as many numbers for each side.

    `x` is where it stands in a series (tokens of context, slots); None: in none. `made` says of
    which commit and day it is, "" if that is not known.
    """

    group: str
    model: str
    precision: str
    case: str
    measure: str
    values: dict[str, list[float]] = field(default_factory=dict)
    x: float | None = None
    made: str = ""

    @property
    def place(self) -> tuple[str, ...]:
        """Names the case."""
        return (self.group, self.model, self.precision, self.case)

    @property
    def key(self) -> tuple[str, ...]:
        """Names the figure."""
        return (*self.place, self.measure)

    @property
    def rounds(self) -> int:
        """How many values each side has."""
        return max(map(len, self.values.values()), default=0)

    @property
    def sides(self) -> list[str]:
        """Who was measured, the limit aside; we come first."""
        others = [side for side in self.values if side not in (OURS, LIMIT)]
        return [OURS, *others] if OURS in self.values else others

    def median(self, side: str = OURS) -> float:
        """The middle round."""
        return statistics.median(self.values[side])

    def ratios(self, against: str) -> list[float]:
        """Round by round, how many times better we are than another side, or near a limit."""
        ours, others = self.values[OURS], self.values[against]
        if MEASURES[self.measure].is_more_better:
            return [a / b for a, b in zip(ours, others, strict=True)]
        return [b / a for a, b in zip(ours, others, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """A case that was not measured, or without one of its sides, and why."""

    group: str
    model: str
    precision: str
    case: str
    reason: str

    @property
    def place(self) -> tuple[str, ...]:
        """Names the case."""
        return (self.group, self.model, self.precision, self.case)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that is known of a machine. `skipped` says what was not measured, and why."""

    machine: dict[str, str]
    rows: list[Row]
    skipped: list[Skip]

    def find(self, **wanted: str) -> list[Row]:
        """Rows whose fields have these values."""
        return [
            row
            for row in self.rows
            if all(getattr(row, name) == value for name, value in wanted.items())
        ]

    def updated(self, other: Report) -> Report:
        """With the figures of a later run in place of those of the same cases here.

        NOTE: a case that failed in the later run keeps its earlier figures, and is told of.
        """
        newer = {row.place for row in other.rows}
        tried = newer | {skip.place for skip in other.skipped}
        rows = [row for row in self.rows if row.place not in newer]
        skipped = [skip for skip in self.skipped if skip.place not in tried]
        return Report(
            machine=other.machine,
            rows=[*rows, *other.rows],
            skipped=list(dict.fromkeys([*skipped, *other.skipped])),
        )


def collect(
    rounds: Sequence[Readings],
    *,
    group: str,
    model: str,
    precision: str,
    case: str,
    x: float | None = None,
    made: str = "",
) -> list[Row]:
    """Rows of all rounds of a case; a side that was not there in one of them is left out."""
    rows = []
    for measure in rounds[0]:
        sides = [
            side for side in rounds[0][measure] if all(side in each[measure] for each in rounds)
        ]
        values = {side: [each[measure][side] for each in rounds] for side in sides}
        rows.append(
            Row(
                group=group,
                model=model,
                precision=precision,
                case=case,
                measure=measure,
                values=values,
                x=x,
                made=made,
            )
        )
    return rows


def write(report: Report, path: Path) -> None:
    """As JSON, values with five digits. The file is there whole, or as it was before."""
    told = asdict(report)
    for row in told["rows"]:
        row["values"] = {side: rounded(each) for side, each in row["values"].items()}
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(told, indent=1) + "\n")
    unfinished.replace(path)


def rounded(values: Iterable[float]) -> list[float]:
    """Digits beyond the fifth mean nothing."""
    return [float(f"{value:.5g}") for value in values]


def read(path: Path) -> Report:
    """What `write` wrote."""
    told: Mapping[str, Any] = json.loads(path.read_text())
    rows = [Row(**each) for each in told["rows"]]
    skipped = [Skip(**each) for each in told["skipped"]]
    return Report(machine=told["machine"], rows=rows, skipped=skipped)
