"""A report for people: Markdown.

In: a `Report`. Out: a page with a table of goals and a table for each group.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from speed import goals
from speed.plan import PRECISIONS
from speed.record import LIMIT, MEASURES, Report, Row
from speed.shapes import SHAPES

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
    "call. The limit is that of its prompts and its steps, each as far as memory and matrix "
    "products allow.",
    "joining": "Pauses between two steps of eight running streams, and the newcomer's first token. "
    "llama.cpp evaluates as much of the newcomer's prompt in a step as a batch holds; this engine "
    "so much that the others are not kept waiting, and the newcomer waits longer for it.",
    "prefix": "A prompt of which all but 16 tokens were evaluated before, and where that lies. To "
    "compare with: one decode step and the evaluation of 16 tokens without a past. llama.cpp keeps "
    "a prompt in its own sequence only.",
    "lookup": "The answer quotes the prompt. The model is steered to write it: every step is "
    "computed, then the logit of the next token is raised.",
    "constrained": "A form of 20 fields, steered in the same way: with text that a grammar forces "
    "or lets foresee, with every token sampled, and without a grammar.",
    "sampler": "Greedy is one maximum; all filters are penalties, top-k 40, top-p, min-p, "
    "temperature. At a vocabulary of 128,256.",
    "http": "Eight streams of the same server's engine, in-process and as events over HTTP.",
    "memory": "From the start of a process to its first answer, files in the page cache. Resident "
    "counts mapped weights. This engine makes 8 and 4 bits out of bf16 meanwhile; llama.cpp reads "
    "a file that has them.",
    "context": "One decode step, and the speed of the prompt's latest 256 tokens, at this many "
    "tokens; llama.cpp, which would take minutes for more, up to 8192.",
    "slots": "One stream among so many slots.",
}


def page(report: Report, *, profile: str = "") -> str:
    """The whole document. `profile` is the page that tells where the time goes, if there is one."""
    parts = ["# Speed", _introduction(report), "## Goals", _goals(report, profile)]
    for group, title in TITLES.items():
        rows = in_order(report.find(group=group))
        if rows:
            plot = f"![{title}](speed_{group}.png)"
            parts += [f"## {title}", EXPLAINED[group], table(rows), *made(rows), plot]
    if report.skipped:
        told = [
            f"- {each.group}, {each.model} {each.precision}, {each.case}: {each.reason}"
            for each in report.skipped
        ]
        parts += ["## Not measured", "\n".join(told)]
    return "\n\n".join(parts) + "\n"


def in_order(rows: Sequence[Row]) -> list[Row]:
    """By size and precision, whichever was measured first."""
    sizes, precisions = list(SHAPES), list(PRECISIONS)

    def place(row: Row) -> tuple[float, ...]:
        return (sizes.index(row.model), precisions.index(row.precision), row.x or 0.0)

    return sorted(rows, key=place)


def made(rows: Sequence[Row]) -> list[str]:
    """Which rows are of which commit and day, in one line; nothing where that is not known."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        found.setdefault(row.made, {})[f"{row.model} {row.precision}"] = None
    found.pop("", None)
    if not found:
        return []
    if len(found) == 1:
        return [f"Measured {next(iter(found))}."]
    told = "; ".join(f"{', '.join(names)} {when}" for when, names in found.items())
    return [f"Measured: {told}."]


def _introduction(report: Report) -> str:
    about = "\n".join(f"- {name}: {value}" for name, value in report.machine.items())
    return (
        "Made by `make bench` (`engine/bench/run.py` says how). Figures are medians over rounds in "
        "which all sides had the same work in turns, each in a process of its own; the ratio is "
        "that of each round, its range in brackets, and above 1 this engine is better. Models are "
        "Llamas with random weights, the same for all sides. What a machine does besides shows in "
        "the ranges: with few rounds they say little.\n\n" + about
    )


def _goals(report: Report, profile: str) -> str:
    head = (
        *("goal (1.1B if none is said)", "against", "needed", "measured (range)"),
        *("rounds", "the machine allows", "reached"),
    )
    explained = (
        "What the machine allows is the ratio that its limit has to the same side: a goal above "
        "that cannot be reached on it."
    )
    if profile:
        explained += (
            f" Where the time goes, and what was tried for the others: [{profile}]({profile})."
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
        "rounds",
    )
    body = []
    for row in rows:
        unit = MEASURES[row.measure].unit
        first = row.sides[0]
        line = [row.model, row.precision, row.case, f"{row.measure}, {unit}", number(row, first)]
        line += [number(row, side) for side in others]
        line += [ratio(row, side) for side in others]
        line += [share(row)] if has_limit else []
        line.append(str(row.rounds))
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
