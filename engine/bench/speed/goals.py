"""What this engine is to reach, and whether a report says that it does.

In: a `Report`. Out: a line for each goal with what was measured.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from speed.record import LIMIT, Report, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A ratio that a figure is to have against a side; without a side, a most that it may be.

    `case` is the beginning of a case's name.
    """

    text: str
    group: str
    measure: str
    needed: float
    model: str = "1.1B"
    precision: str = "bf16"
    case: str = ""
    against: str | None = "llama.cpp"
    is_inverse: bool = False  # the ratio is told the other way round: at most `needed`

    def row(self, report: Report) -> Row | None:
        """The figure that it is about."""
        found = report.find(
            group=self.group, model=self.model, precision=self.precision, measure=self.measure
        )
        fitting = [row for row in found if row.case.startswith(self.case)]
        if self.against is not None:
            fitting = [row for row in fitting if self.against in row.values]
        return fitting[0] if fitting else None

    def measured(self, report: Report) -> list[float]:
        """The ratio of every round, or the figure itself; nothing if it was not measured."""
        row = self.row(report)
        if row is None:
            return []
        if self.against is None:
            return row.values[row.sides[0]]
        ratios = row.ratios(self.against)
        return [1 / ratio for ratio in ratios] if self.is_inverse else ratios

    def allowed(self, report: Report) -> float | None:
        """The ratio that the limit of the machine has against the same side."""
        row = self.row(report)
        if row is None or self.against in (None, LIMIT) or LIMIT not in row.values:
            return None
        limits, others = row.values[LIMIT], row.values[str(self.against)]
        return statistics.median(a / b for a, b in zip(limits, others, strict=True))

    def is_reached(self, value: float) -> bool:
        """Whether that is good enough."""
        is_most = self.is_inverse or self.against is None
        return value <= self.needed if is_most else value >= self.needed


GOALS = (
    Goal(text="decode, bf16", group="answers", measure="decode", needed=1.25),
    Goal(text="decode, int8", group="answers", measure="decode", precision="int8", needed=1.4),
    Goal(text="decode, int4", group="answers", measure="decode", precision="int4", needed=1.2),
    Goal(
        text="decode, bf16: share of the bandwidth",
        group="answers",
        measure="decode",
        needed=0.8,
        against=LIMIT,
    ),
    Goal(text="prefill, bf16", group="answers", measure="prefill", needed=5),
    Goal(text="prefill, int8", group="answers", measure="prefill", precision="int8", needed=8),
    *(
        Goal(
            text=f"8 streams, {precision}",
            group="streams",
            measure="total",
            precision=precision,
            case="8 streams",
            needed=1.5,
        )
        for precision in ("bf16", "int8", "int4")
    ),
    Goal(
        text="decode of the 60M model, bf16",
        group="answers",
        measure="decode",
        model="60M",
        needed=5,
        against="generate",
    ),
    *(
        Goal(
            text=f"answers that quote, with prompt lookup, {model}",
            group="lookup",
            measure="answer",
            model=model,
            needed=2,
            against="plain",
        )
        for model in ("60M", "1.1B")
    ),
    *(
        Goal(
            text=f"JSON of 20 fields, forced text, {model}",
            group="constrained",
            measure="answer",
            model=model,
            needed=2.5,
            against="sampled",
        )
        for model in ("60M", "1.1B")
    ),
    *(
        Goal(
            text=f"first token, {where}, 60M",
            group="prefix",
            measure="first token",
            model="60M",
            case=where,
            needed=1.3,
            against="a step and 16 tokens",
            is_inverse=True,
        )
        for where in ("same slot", "other slot", "host store", "restored file")
    ),
    Goal(
        text="sampler chain, 128k tokens: share of a 1.1B step",
        group="sampler",
        measure="a token",
        case="all filters",
        needed=0.02,
        against="a step of the model",
        is_inverse=True,
    ),
    Goal(
        text="HTTP at 8 streams, ms a token more",
        group="http",
        measure="over HTTP, a token",
        model="60M",
        needed=0.3,
        against=None,
    ),
)


def lines(report: Report) -> list[tuple[str, ...]]:
    """For a table: goal, against whom, needed, measured (range), rounds, possible, reached."""
    found = []
    for goal in GOALS:
        values = goal.measured(report)
        sign = "at most" if goal.is_inverse or goal.against is None else "at least"
        told = ("not measured", "", "", "")
        if values:
            middle = statistics.median(values)
            digits = 2 if middle >= 0.1 else 4
            low, high = min(values), max(values)
            span = f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
            most = goal.allowed(report)
            possible = f"{most:.2f}" if most else ""
            is_reached = "yes" if goal.is_reached(middle) else "no"
            told = (span, str(len(values)), possible, is_reached)
        found.append((goal.text, goal.against or "", f"{sign} {goal.needed:g}", *told))
    return found
