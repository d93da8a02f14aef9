"""The table of speeds that a README shows: a few figures of a report.

In: a `Report`, the text of a README that has such a table. Out: the text with the figures of now.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from speed.goals import Goal
from speed.record import LIMIT, MEASURES, Report
from speed.tables import markdown, number, ratio, share

HEAD = ("weights", "work", "this engine", "beside it", "times as fast", "of the limit", "rounds")
FOUND = re.compile(rf"^\| {HEAD[0]} .*?(?=^$)", flags=re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Line:
    """A figure, and what it is called in a README."""

    weights: str
    work: str
    figure: Goal

    def cells(self, report: Report) -> tuple[str, ...] | None:
        """The line of the table; None if the figure was not measured."""
        row = self.figure.row(report)
        if row is None:
            return None
        against, unit = self.figure.against, MEASURES[row.measure].unit
        beside = f"{number(row, against)} ({against})" if against else ""
        told = (f"{number(row, row.sides[0])} {unit}", beside, ratio(row, against or ""))
        return (self.weights, self.work, *told, share(row) if LIMIT in row.values else "",
                str(row.rounds))  # fmt: skip


def _large(precision: str) -> tuple[Line, ...]:
    """The 1.1B model beside llama.cpp."""
    asked = (
        ("answering, one stream", "answers", "decode", ""),
        ("reading a prompt", "answers", "prefill", ""),
        ("8 streams, whole calls", "streams", "total", "8 streams"),
    )
    return tuple(
        Line(
            f"1.1B {precision}",
            work,
            Goal(text="", needed=0, group=group, measure=what, precision=precision, case=case),
        )
        for work, group, what, case in asked
    )


def _small(work: str, group: str, measure: str, against: str | None) -> Line:
    """The 60M model beside something else."""
    figure = Goal(text="", needed=0, group=group, measure=measure, model="60M", against=against)
    return Line("60M bf16", work, figure)


LINES = (
    *(line for precision in ("bf16", "int8", "int4") for line in _large(precision)),
    _small("answering, one stream", "answers", "decode", "generate"),
    _small("an answer that quotes its prompt, with prompt lookup", "lookup", "answer", "plain"),
    _small("JSON of 20 fields, with forced text", "constrained", "answer", "sampled"),
    _small("8 streams over HTTP, more for a token", "http", "over HTTP, a token", None),
)


def table(report: Report) -> str:
    """Markdown, without what was not measured."""
    return markdown(HEAD, [cells for line in LINES if (cells := line.cells(report))])


def filled(text: str, report: Report) -> str:
    """A README with the table of now. Raises `ValueError` if it has none."""
    if len(FOUND.findall(text)) != 1:
        raise ValueError("a README with one table of speeds is needed")
    return FOUND.sub(lambda _: table(report) + "\n", text)
