"""What the benchmarks found: a table for people, JSON for programs, a plot.

In: `Result`s and a description of the machine. Out: Markdown text, and files in a folder.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contest import Result

HEAD = (
    "model",
    "dtype",
    "work",
    "ours, tokens/s",
    "generate, tokens/s",
    "ratio",
    "median ratio (range)",
    "same answers",
)
OURS, PEER = "libertai-engine", "transformers generate"
COLORS = {OURS: "#2563a8", PEER: "#c9c9c9"}


def machine() -> dict[str, str]:
    """The machine in general words, and the versions that matter."""
    import torch
    import transformers

    device = "CUDA GPU" if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
    return {
        "machine": f"{os.cpu_count()} cores, {device}, {torch.get_num_threads()} threads",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
    }


def summarize(result: Result) -> dict[str, Any]:
    """The figures of a case. A ratio is our speed over theirs; above 1 we are faster.

    `ours`, `peer` (tokens a second) and `ratio` are those of each side's best round, which other
    programs disturbed the least; the medians are over all rounds, ratios taken round by round.
    """
    num_tokens = result.case.num_tokens
    ours = [num_tokens / each.ours for each in result.rounds]
    peer = [num_tokens / each.peer for each in result.rounds]
    ratios = [each.peer / each.ours for each in result.rounds]
    return {
        "model": result.model,
        "dtype": result.dtype,
        **asdict(result.case),
        "label": result.case.label,
        "ours": max(ours),
        "peer": max(peer),
        "ratio": max(ours) / max(peer),
        "ours_median": statistics.median(ours),
        "peer_median": statistics.median(peer),
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "same_answers": sum(each.same for each in result.rounds),
        "answers": result.case.streams * len(result.rounds),
        "rounds": [asdict(each) for each in result.rounds],
    }


def to_table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table, one line a case."""
    lines = [
        (
            row["model"],
            row["dtype"],
            row["label"],
            f"{row['ours']:.0f}",
            f"{row['peer']:.0f}",
            f"{row['ratio']:.2f}",
            f"{row['ratio_median']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})",
            f"{row['same_answers']}/{row['answers']}",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [HEAD, *lines]) for column in range(len(HEAD))]
    body = [_line(line, widths) for line in lines]
    return "\n".join([_line(HEAD, widths), _line(["-" * width for width in widths], widths), *body])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join(padded)} |"


def save(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Write table, JSON and plot as `speed.*`; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    about = machine()
    table, data, plot = (folder / f"speed.{suffix}" for suffix in ("md", "json", "png"))
    table.write_text(f"{to_table(rows)}\n\n{about['machine']}; {about['versions']}.\n")
    data.write_text(json.dumps({**about, "results": list(rows)}, indent=1) + "\n")
    draw(rows, plot, about["machine"])
    return [table, data, plot]


def draw(rows: Sequence[dict[str, Any]], path: Path, subtitle: str) -> None:
    """Bars of tokens a second for every case, one panel a model, the ratio above each pair."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, axes = pyplot.subplots(
        len(models), 1, figsize=(11, 4.2 * len(models)), squeeze=False, layout="constrained"
    )
    for axis, model in zip(axes[:, 0], models, strict=True):
        _draw_panel(axis, model, [row for row in rows if row["model"] == model])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(f"Speed against transformers' generate, same weights and prompts ({subtitle})")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_panel(axis: Any, model: str, rows: Sequence[dict[str, Any]]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    places = range(len(rows))
    for offset, name, key in ((-0.2, OURS, "ours"), (0.2, PEER, "peer")):
        heights = [row[key] for row in rows]
        axis.bar([place + offset for place in places], heights, 0.4, label=name, color=COLORS[name])
    for place, row in zip(places, rows, strict=True):
        top = max(row["ours"], row["peer"])
        axis.annotate(
            f"ratio {row['ratio']:.2f}", (place, top), ha="center", va="bottom", fontweight="bold"
        )
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.margins(y=0.15)
    axis.set_xticks(places, [f"{row['label']}\n{row['dtype']}" for row in rows], fontsize=8)
    axis.set_ylabel("tokens per second, best round (log scale)")
    axis.set_title(model, loc="left", fontsize=10)
    axis.set_xlabel("work: tokens x streams at once, with the dtype of the weights")
    axis.spines[["top", "right"]].set_visible(False)
