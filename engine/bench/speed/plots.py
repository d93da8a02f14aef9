"""A report for the eye: one picture a group.

In: a `Report`, a folder. Out: `speed_GROUP.png` files: bars beside each other, or lines where a
case has a place in a series.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speed.record import LIMIT, MEASURES, OURS, Report, Row
from speed.tables import TITLES, in_order

COLORS = {
    OURS: "#2563a8",
    "llama.cpp": "#d08c3c",
    "generate": "#b8b8b8",
    "generate_batch": "#8a8a8a",
}
OTHER_COLORS = ("#5a9e6f", "#a05fa3", "#c7615a", "#6f7f8f")
LINES = {"streams", "context", "slots"}


def draw(report: Report, folder: Path) -> list[Path]:
    """All groups; returns the files."""
    import matplotlib

    matplotlib.use("Agg")
    paths = []
    for group, title in TITLES.items():
        rows = in_order(report.find(group=group))
        if rows:
            path = folder / f"speed_{group}.png"
            _draw_group(rows, title, path)
            paths.append(path)
    return paths


def _draw_group(rows: Sequence[Row], title: str, path: Path) -> None:
    """A panel for each measure, or for each measure, model and precision of a series."""
    from matplotlib import pyplot

    is_series = rows[0].group in LINES
    panels: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = (row.measure, row.model, row.precision) if is_series else (row.measure,)
        panels.setdefault(key, []).append(row)
    columns = min(3, len(panels)) if is_series else 1
    lines = -(-len(panels) // columns)
    size = (4.4 * columns, 3.6 * lines) if is_series else (_width(rows), 3.6 * lines)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=size, squeeze=False, layout="constrained"
    )
    for axis, (key, part) in zip(axes.flat, panels.items(), strict=False):
        (_draw_series if is_series else _draw_bars)(axis, part)
        axis.set_title(", ".join(key), loc="left", fontsize=9)
        axis.set_ylabel(MEASURES[key[0]].unit)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        found, names = axis.get_legend_handles_labels()
        handles |= dict(zip(names, found, strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=6, fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _width(rows: Sequence[Row]) -> float:
    cases = {(row.model, row.precision, row.case) for row in rows}
    return max(6.0, min(16.0, 2.0 + 1.5 * len(cases)))


def _color(side: str, others: Sequence[str]) -> str:
    if side in COLORS:
        return COLORS[side]
    return OTHER_COLORS[sorted(others).index(side) % len(OTHER_COLORS)]


def _draw_bars(axis: Any, rows: Sequence[Row]) -> None:
    """A group of bars a case, whiskers from the worst round to the best, a dash for the limit."""
    sides = list(dict.fromkeys(side for row in rows for side in row.sides))
    width = 0.8 / len(sides)
    unknown = [side for side in sides if side not in COLORS]
    for number, side in enumerate(sides):
        places = [place for place, row in enumerate(rows) if side in row.values]
        medians = [rows[place].median(side) for place in places]
        low = [rows[place].median(side) - min(rows[place].values[side]) for place in places]
        high = [max(rows[place].values[side]) - rows[place].median(side) for place in places]
        axis.bar(
            [place + (number - (len(sides) - 1) / 2) * width for place in places],
            medians,
            width,
            yerr=(low, high),
            error_kw={"elinewidth": 0.8, "ecolor": "#404040"},
            label=side,
            color=_color(side, unknown),
        )
    limited = [place for place, row in enumerate(rows) if LIMIT in row.values]
    if limited:
        axis.hlines(
            [rows[place].median(LIMIT) for place in limited],
            [place - 0.45 for place in limited],
            [place + 0.45 for place in limited],
            colors="#a01c1c",
            linestyles="dashed",
            label="limit of the machine",
        )
    names = [f"{row.model} {row.precision}\n{row.case}" for row in rows]
    axis.set_xticks(range(len(rows)), names, fontsize=7)
    heights = [row.median(side) for row in rows for side in row.values if row.median(side) > 0]
    if heights and max(heights) > 20 * min(heights):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")


def _draw_series(axis: Any, rows: Sequence[Row]) -> None:
    """A line a side."""
    ordered = sorted(rows, key=lambda row: row.x or 0.0)
    sides = list(dict.fromkeys(side for row in ordered for side in row.values))
    unknown = [side for side in sides if side not in COLORS and side != LIMIT]
    for side in sides:
        there = [row for row in ordered if side in row.values]
        is_limit = side == LIMIT
        axis.plot(
            [row.x for row in there],
            [row.median(side) for row in there],
            linestyle="--" if is_limit else "-",
            marker="" if is_limit else "o",
            markersize=4,
            color="#a01c1c" if is_limit else _color(side, unknown),
            label="limit of the machine" if is_limit else side,
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks([row.x for row in ordered], [f"{row.x:g}" for row in ordered], fontsize=7)
    axis.set_xlabel("tokens of context" if rows[0].group == "context" else rows[0].group)
    axis.set_ylim(bottom=0)
