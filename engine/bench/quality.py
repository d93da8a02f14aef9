"""What 8 and 4 bits cost: sizes and perplexities of trained models in every precision.

Run: python engine/bench/quality.py [--model LABEL=MODEL]… [--out FOLDER]
In: trained models (default: the demo model). Out: a table on the terminal; quantisation.md, .json
and .png in the folder.

Each model reads two texts: the one that the engine reads when it quantizes, which is the same for
all, and texts that the model wrote itself in bf16 by drawing from its own probabilities. The latter
it knows by definition, and their perplexity rises by the mean distance of the predictions, so
small models that were trained on other things than the former are measured fairly, too.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from libertai_engine.config import Dtype, EngineConfig
from libertai_engine.engine import load_engine
from libertai_engine.model.loader import LoadedModel, load_model
from libertai_engine.model.quality import Reading, read, text_ids
from libertai_engine.sampling_params import SamplingParams
from libertai_engine.sequence import Request
from machine import machine

DOCS = Path(__file__).resolve().parents[2] / "docs"
DTYPES: tuple[Dtype, ...] = ("fp32", "bf16", "int8", "int4")
NUM_TEXTS = 8
NUM_WRITTEN = 192  # tokens of each text of the model's own
# Whatever is possible, as likely as the model says.
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}
HEAD = (
    "model",
    "weights",
    "MiB",
    "of bf16",
    "fixed text",
    "rise",
    "own text",
    "rise",
    "divergence",
)
INTRO = """\
# Quantization: sizes and perplexities

Made by `python engine/bench/quality.py`, which says what is measured. "Fixed text" is the one that
the engine reads when it quantizes a model, "own text" is what the model itself wrote in bf16.
Perplexities are those of the tokens of each model, so they compare within a model only. "Rise" is
against bf16; "divergence" is exp(KL) - 1 of the predictions on the model's own text. In 8 and 4
bits, activations are rounded to 8 bits on the way into each matrix.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One model in one precision. `fixed` and `own` are perplexities, `mib` is the size."""

    model: str
    dtype: str
    mib: float
    fixed: float
    own: float
    divergence: float


def parse_args() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description="Quality of quantized models.")
    parser.add_argument(
        "--model", action="append", metavar="LABEL=MODEL", help="a trained model (default: demo)"
    )
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for the files")
    return parser.parse_args()


def write_texts(model: str) -> list[list[int]]:
    """What a model says if nothing is asked, in tokens; a text ends where the model ends it."""
    texts = []
    config = EngineConfig(model=model, dtype="bf16", num_slots=1, max_draft=0)
    with load_engine(config, progress=False) as engine:
        start = engine.tokenizer.encode("", add_special=True)
        for seed in range(NUM_TEXTS):
            request = Request(
                prompt_ids=tuple(start),
                sampling=SamplingParams(seed=seed, **PLAIN),
                max_tokens=NUM_WRITTEN,
            )
            written = [token.token_id for delta in engine.submit(request) for token in delta.tokens]
            texts.append([*start, *written])
    return [text for text in texts if len(text) > 1]


def measure(label: str, model: str) -> list[Row]:
    """All precisions of a model."""
    texts = write_texts(model)
    rows: list[Row] = []
    base: list[Reading] = []
    for dtype in sorted(DTYPES, key=lambda each: each != "bf16"):  # the base comes first
        config = EngineConfig(model=model, dtype=dtype, measures_quality=False)
        loaded = load_model(config, progress=False)
        readings = [read(loaded.module, text) for text in texts]
        base = base or readings
        rows.append(_row(label, dtype, loaded, readings, base))
    return sorted(rows, key=lambda row: [*DTYPES].index(row.dtype))


def _row(
    label: str, dtype: str, loaded: LoadedModel, own: list[Reading], base: list[Reading]
) -> Row:
    surprises = [each for reading in own for each in reading.surprises]
    return Row(
        model=label,
        dtype=dtype,
        mib=loaded.size_bytes / 2**20,
        fixed=read(loaded.module, text_ids(loaded.tokenizer, loaded.train_context)).perplexity,
        own=math.exp(sum(surprises) / len(surprises)),
        divergence=_divergence(base, own),
    )


def _divergence(base: Sequence[Reading], readings: Sequence[Reading]) -> float:
    """exp(KL) - 1 over all positions of all texts."""
    distances = [
        (old.log_probs.exp() * (old.log_probs - new.log_probs)).sum(-1)  # [tokens]
        for old, new in zip(base, readings, strict=True)
    ]
    total = sum(float(each.sum()) for each in distances)
    return math.expm1(max(0.0, total / sum(map(len, distances))))


def to_table(rows: Sequence[Row]) -> str:
    """A Markdown table, one line a precision."""
    base = {row.model: row for row in rows if row.dtype == "bf16"}
    lines = [HEAD, ("---",) * len(HEAD)]
    for row in rows:
        plain = base[row.model]
        lines.append(
            (
                row.model,
                row.dtype,
                f"{row.mib:.1f}",
                f"{row.mib / plain.mib:.2f}",
                f"{row.fixed:.1f}",
                f"{row.fixed / plain.fixed - 1:+.2%}",
                f"{row.own:.3f}",
                f"{row.own / plain.own - 1:+.2%}",
                f"{row.divergence:.2%}",
            )
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def save(rows: Sequence[Row], folder: Path) -> None:
    """Write table, JSON and plot as `quantisation.*`."""
    folder.mkdir(parents=True, exist_ok=True)
    about = machine()
    data = {**about, "results": [asdict(row) for row in rows]}
    (folder / "quantisation.json").write_text(json.dumps(data, indent=1) + "\n")
    draw(rows, folder / "quantisation.png")
    plot = "![size against divergence](quantisation.png)"
    text = f"{INTRO}\n{to_table(rows)}\n\n{about['versions']}.\n\n{plot}\n"
    (folder / "quantisation.md").write_text(text)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Size against divergence, one line a model, one point a precision."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for model in dict.fromkeys(row.model for row in rows):
        points = [row for row in rows if row.model == model and row.dtype.startswith("int")]
        whole = next(row.mib for row in rows if row.model == model and row.dtype == "bf16")
        places: list[Any] = [(row.mib / whole, row.divergence) for row in points]
        axis.plot(*zip(*places, strict=True), "o-", label=model)
        for row, place in zip(points, places, strict=True):
            axis.annotate(row.dtype, place, xytext=(5, 5), textcoords="offset points")
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.2%}")
    axis.margins(0.15)
    axis.set_xlabel("size of the weights, relative to bf16")
    axis.set_ylabel("divergence from bf16 (log scale)")
    axis.set_title("What fewer bits cost, on texts of the models' own", loc="left", fontsize=10)
    axis.legend()
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> int:
    """Measure, print, write; 0."""
    args = parse_args()
    rows = []
    for told in args.model or ["demo model=demo"]:
        label, _, model = told.rpartition("=")
        rows += measure(label or model, model)
    print(to_table(rows))
    save(rows, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
