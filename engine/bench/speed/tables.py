"""A report for people: Markdown.

In: a `Report`. Out: a page with a table of goals and a table for each group.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from speed import goals
from speed.record import LIMIT, MEASURES, Report, Row

TITLES = {
    "answers": "One stream",
    "streams": "Several streams",
    "joining": "A long prompt joins",
    "prefix": "Time to the first token",
    "lookup": "Prompt lookup",
    "constrained": "JSON held to a schema",
    "sampler": "The sampler chain",
    "http": "Over HTTP",
    "memory": "Start and memory",
    "context": "As the context grows",
    "slots": "As slots grow",
}
EXPLAINED = {
    "answers": "A prompt and its answer, greedy. The limit of decoding is the weights' bytes at "
    "the read bandwidth measured in the same round; that of prefill is the layers' matrices at the "
    "speed of a large matrix product in that precision (in 4 bits: in 8).",
    "streams": "Prompts of 16 tokens, answers of 24, all at once; the time is that of the whole "
    "call.",
    "joining": "Pauses between two steps of eight running streams, and the newcomer's first token.",
    "prefix": "A prompt of which all but 16 tokens were evaluated before, and where that lies. To "
    "compare with: one decode step and the evaluation of 16 tokens without a past.",
    "lookup": "The answer quotes the prompt. The model is steered to write it: every step is "
    "computed, then the logit of the next token is raised.",
    "constrained": "A form of 20 fields, steered in the same way: with forced text, with every "
    "token sampled, and without a grammar.",
    "sampler": "Greedy is one maximum; all filters are penalties, top-k 40, top-p, min-p, "
    "temperature. At a vocabulary of 128,256.",
    "http": "Eight streams of the same server's engine, in-process and as events over HTTP.",
    "memory": "From the start of a process to its first answer, files in the page cache. Resident "
    "counts mapped weights. This engine makes 8 and 4 bits out of bf16 meanwhile; llama.cpp reads "
    "a file that has them.",
    "context": "One decode step, and the speed of the prompt's latest part, at this many tokens.",
    "slots": "One stream among so many slots.",
}


def page(report: Report) -> str:
    """The whole document."""
    parts = ["# Speed", _introduction(report), "## Goals", _goals(report)]
    for group, title in TITLES.items():
        rows = report.find(group=group)
        if rows:
            plot = f"![{title}](speed_{group}.png)"
            parts += [f"## {title}", EXPLAINED[group], table(rows), plot]
    if report.skipped:
        parts += ["## Not measured", "\n".join(f"- {each}" for each in report.skipped)]
    return "\n\n".join(parts) + "\n"


def _introduction(report: Report) -> str:
    about = "\n".join(f"- {name}: {value}" for name, value in report.machine.items())
    return (
        "Made by `make bench` (`engine/bench/run.py` says how). Figures are medians over rounds in "
        "which all sides had the same work in turns, each in a process of its own; the ratio is "
        "that of each round, its range in brackets, and above 1 this engine is better. Models are "
        "Llamas with random weights, the same for all sides.\n\n" + about
    )


def _goals(report: Report) -> str:
    head = (
        *("goal (1.1B if none is said)", "against", "needed", "measured (range)"),
        *("the machine allows", "reached"),
    )
    explained = (
        "What the machine allows is the ratio that its limit has to the same side: a goal above "
        "that cannot be reached on it."
    )
    return f"{markdown(head, goals.lines(report))}\n\n{explained}"


def table(rows: Sequence[Row]) -> str:
    """One group: a line for each figure, a column for each side."""
    others = list(dict.fromkeys(side for row in rows for side in row.sides[1:]))
    has_limit = any(LIMIT in row.values for row in rows)
    head = (
        *("model", "precision", "case", "measure"),
        rows[0].sides[0],
        *others,
        *(f"ratio to {side}" for side in others),
        *(("share of the limit",) if has_limit else ()),
    )
    body = []
    for row in rows:
        unit = MEASURES[row.measure].unit
        first = row.sides[0]
        line = [row.model, row.precision, row.case, f"{row.measure}, {unit}", number(row, first)]
        line += [number(row, side) for side in others]
        line += [ratio(row, side) for side in others]
        line += [share(row)] if has_limit else []
        body.append(tuple(line))
    return markdown(head, body)


def number(row: Row, side: str) -> str:
    """The median with three digits."""
    if side not in row.values:
        return ""
    value = row.median(side)
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio(row: Row, side: str) -> str:
    """Median of the rounds' ratios, and their range."""
    if side not in row.values or side == row.sides[0]:
        return ""
    ratios = row.ratios(side)
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def share(row: Row) -> str:
    """Of what the machine allows at most."""
    if LIMIT not in row.values:
        return ""
    return f"{100 * statistics.median(row.ratios(LIMIT)):.0f} %"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table whose columns stand one below another in the source too."""
    rows = [head, *lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    body = [_line(row, widths) for row in lines]
    return "\n".join([_line(head, widths), _line(["-" * width for width in widths], widths), *body])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join(padded)} |"
