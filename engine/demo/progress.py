"""Scores over the training. In: copies of the run folder, of several moments. Out: JSON, a plot.

    python engine/demo/progress.py COPY… --out docs/demo-progress.json
    python engine/demo/progress.py --out docs/demo-progress.json --plot scores.png

Each copy answers the same held-out questions of today's text, greedily; its scores are added to
the file, and the plot shows all that the file has.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from checkpoint import load_state
from export import write_model
from questions import KINDS_OF_QUESTIONS, questions
from recipe import Recipe
from score import score
from training import new_model
from vocabulary import fast_tokenizer

Point = dict[str, float]  # `tokens`, and the share of right answers for each kind
PANELS: Mapping[str, Sequence[str]] = {
    "tools and JSON": (
        "one tool",
        "right tool of up to three",
        "the same, new wording",
        "no tool fits",
        "extraction",
        "extraction, new wording",
    ),
    "reading": (
        "reading, 3 sentences",
        "reading, 10",
        "reading, 30",
        "reading, 3, new wording",
        "reading, 3, new sorts of facts",
        "not in the text",
    ),
    "the rest": ("copying", "memory", "sums", "sorting", "roles"),
}


def measure(copy: Path, count: int, seed: int) -> Point:
    """Return the scores of one copy of a run folder, with the tokens it has seen."""
    pieces = (copy / "tokenizer.model").read_bytes()
    model = new_model(Recipe(), fast_tokenizer(pieces))
    history = load_state(copy, model, {}, {}, changed=True)
    if history is None:
        raise FileNotFoundError(copy / "state.safetensors")
    with TemporaryDirectory() as folder:
        write_model(Path(folder), model, pieces, Recipe())
        tokenizer = AutoTokenizer.from_pretrained(folder)
        asked = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    point: Point = {"tokens": history["tokens"], "asked": count}
    for kind in [kind for kinds in PANELS.values() for kind in kinds]:
        point[kind], _ = score(asked, tokenizer, list(questions(kind, count, seed)))
        print(f"{history['tokens']:,} {kind} {point[kind]:.0%}", flush=True)
    return point


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw the scores over the tokens seen, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(10, 3.8), sharey=True)
    for axes, (title, kinds) in zip(panels, PANELS.items(), strict=True):
        for kind in kinds:
            values = [100 * point[kind] for point in points]
            axes.plot([point["tokens"] / 1e6 for point in points], values, marker="o", label=kind)
        axes.set(title=title, xlabel="tokens seen, millions", ylim=(0, 101))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="lower right")
    panels[0].set_ylabel("right answers to held-out questions, %")
    figure.tight_layout()
    figure.savefig(path, dpi=60)
    pyplot.close(figure)


def main() -> None:
    """Measure the copies that are named, add them to the file, draw all of it."""
    assert set().union(*PANELS.values()) <= set(KINDS_OF_QUESTIONS)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("copies", type=Path, nargs="*")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--count", type=int, default=40, help="questions of each kind")
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    torch.set_num_threads(1)
    points: list[Point] = json.loads(args.out.read_text("utf-8")) if args.out.exists() else []
    points += [measure(copy, args.count, args.seed) for copy in args.copies]
    points.sort(key=lambda point: point["tokens"])
    args.out.write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
    if args.plot:
        draw(points, args.plot)


if __name__ == "__main__":
    main()
