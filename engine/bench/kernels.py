"""Linear layers: the native kernels beside torch's, from memory.

Run: python engine/bench/kernels.py [--kind bf16 …] [--rounds N] [--out FOLDER]
In: flags. Out: kernels.md, kernels.json and kernels.png in the folder; kinds that are not measured
keep the figures that the folder has of them.

A layer is multiplied with few rows (decoding) and with many (prompts). Every side goes through its
own copies of the layer, more than a cache holds, so weights come from memory as they do in a model,
and lie in large pages as there; only what torch's quantised engines pack for themselves does not.
Sides take turns within each round; the figure of a side is its median, and those of a kind of
weights and a number of rows come from the same rounds. Activations and results are bf16, fp32 for
fp32 weights. Few rows are told in GB/s of weights: what the memory gives is the limit; many in
GFLOP/s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as torch_linear

from libertai_engine.kernels import library
from libertai_engine.kernels.library import Library
from libertai_engine.kernels.linear import linear
from libertai_engine.kernels.matrix import KINDS, Kind, dense
from libertai_engine.kernels.packing import GROUP, codes_of, pack_int4, pack_int8, unpack
from libertai_engine.model.large_pages import move_to_large_pages
from machine import machine

ROWS, COLS = 5632, 2048  # a layer of a model with 1.1 billion parameters
COUNTS = (1, 2, 4, 8, 16, 32, 128, 512)
FEW = 16  # up to here memory is the limit
RING_BYTES = 100_000_000  # of the copies of a layer
BYTES: dict[Kind, float] = {"fp32": 4, "bf16": 2, "int8": 1, "int4": 0.5 + 2 / GROUP}
Multiply = Callable[[Tensor], object]


@dataclass(frozen=True, slots=True)
class Figure:
    """One side's median, in seconds a layer."""

    kind: Kind
    count: int  # rows of activations
    side: str
    seconds: float

    @property
    def gigabytes(self) -> float:
        """Weights a second, in 10^9 bytes."""
        return ROWS * COLS * BYTES[self.kind] / self.seconds / 1e9

    @property
    def gigaflops(self) -> float:
        """A multiplication and an addition are two."""
        return 2 * ROWS * COLS * self.count / self.seconds / 1e9

    @property
    def text(self) -> str:
        """In the unit that matters."""
        return f"{self.gigabytes:.1f}" if self.count <= FEW else f"{self.gigaflops:.0f}"


def copies(kind: Kind) -> range:
    """As many layers as a cache does not hold."""
    return range(int(RING_BYTES / (ROWS * COLS * BYTES[kind])) + 1)


def sides_of(kind: Kind, native: Library) -> dict[str, list[Multiply]]:
    """Each side's name, and a function for each of its copies of the layer."""
    if kind == "int8":
        return int8_sides(native)
    if kind == "int4":
        return int4_sides(native)
    dtype = torch.float32 if kind == "fp32" else torch.bfloat16
    weights = in_large_pages([torch.randn(ROWS, COLS).to(dtype) for _ in copies(kind)])
    matrices = [dense(weight) for weight in weights]
    return {
        "native": [lambda x, m=m: linear(native, m, x) for m in matrices],
        "linear": [lambda x, w=w: torch_linear(x, w) for w in weights],
        "mv": [lambda x, w=w: torch.mv(w, x[0]) for w in weights],
    }


def in_large_pages(weights: list[Tensor]) -> list[Tensor]:
    """The same numbers where a model's weights are."""
    holder = nn.Module()
    for index, weight in enumerate(weights):
        holder.register_buffer(f"weight_{index}", weight)
    move_to_large_pages(holder)
    return list(holder.buffers())


def int8_sides(native: Library) -> dict[str, list[Multiply]]:
    """Weight-only, by integers, and dynamic ones of the quantised engines."""
    codes = torch.randint(-127, 128, (ROWS, COLS), dtype=torch.int8)
    weights = in_large_pages([codes.clone() for _ in copies("int8")])
    packed = [pack_int8(weight, torch.rand(ROWS)) for weight in weights]
    matrices = [each.matrix() for each in packed]
    ones = torch.ones(ROWS, dtype=torch.bfloat16)
    found: dict[str, list[Multiply]] = {
        "native": [lambda x, m=m: linear(native, m, x) for m in matrices],
        "weight_int8pack_mm": [
            lambda x, p=p: torch._weight_int8pack_mm(x, p.weight, ones) for p in packed
        ],
        "int_mm": [lambda x, p=p: by_integers(x, p.weight, p.scale) for p in packed],
    }
    for engine in ("x86", "onednn"):
        if engine in torch.backends.quantized.supported_engines:
            found[f"dynamic {engine}"] = list(dynamic_layers(engine, codes))
    return found


def by_integers(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """Activations in 8 bits, then torch's product of integers."""
    numbers = x.float()
    steps = numbers.abs().amax(1, keepdim=True) / 127  # [n, 1]
    rounded = (numbers / steps).round_().to(torch.int8)
    return (torch._int_mm(rounded, codes.t()).float() * (steps * scale)).to(x.dtype)


def dynamic_layers(engine: str, codes: Tensor) -> Iterable[Multiply]:
    """Layers of a quantised engine, which take and give fp32."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        for _ in copies("int8"):
            weight = torch._make_per_channel_quantized_tensor(
                codes.clone(),
                torch.rand(ROWS, dtype=torch.float64),
                torch.zeros(ROWS, dtype=torch.int64),
                0,
            )
            layer = torch.ops.quantized.linear_prepack(weight, None)
            yield lambda x, layer=layer: dynamic(x, layer)
    finally:
        torch.backends.quantized.engine = before


def dynamic(x: Tensor, layer: object) -> Tensor:
    """bf16 to bf16 by an engine that knows fp32 only."""
    return torch.ops.quantized.linear_dynamic(x.float(), layer).to(x.dtype)


def int4_sides(native: Library) -> dict[str, list[Multiply]]:
    """Groups of 32 for both."""
    codes = torch.randint(-8, 8, (ROWS, COLS), dtype=torch.int8)
    first = pack_int4(codes, torch.rand(ROWS, COLS // GROUP))
    weights = in_large_pages([first.weight.clone() for _ in copies("int4")])
    packed = [replace(first, weight=weight, scale=first.scale.clone()) for weight in weights]
    matrices = [each.matrix() for each in packed]
    theirs = torch._convert_weight_to_int4pack_for_cpu(codes_of(first)[0].int() + 8, 1)
    scale = torch.rand(COLS // GROUP, ROWS, 2).to(torch.bfloat16)
    pairs = [(w, scale.clone()) for w in in_large_pages([theirs.clone() for _ in copies("int4")])]
    return {
        "native": [lambda x, m=m: linear(native, m, x) for m in matrices],
        "weight_int4pack_mm": [
            lambda x, w=w, s=s: torch._weight_int4pack_mm_for_cpu(x, w, GROUP, s) for w, s in pairs
        ],
        "unpacked, linear": [
            lambda x, p=p: torch_linear(x, unpack(p).to(torch.bfloat16)) for p in packed[:2]
        ],
    }


def measure(kind: Kind, native: Library, rounds: int) -> list[Figure]:
    """All sides for all numbers of rows."""
    sides, figures = sides_of(kind, native), []
    for count in COUNTS:
        x = torch.randn(count, COLS).to(torch.float32 if kind == "fp32" else torch.bfloat16)
        taking = {name: ring for name, ring in sides.items() if takes(name, count)}
        rings = {name: ring if count <= FEW else ring[:2] for name, ring in taking.items()}
        times = {name: [timed(ring, x) for _ in range(2)][1:] for name, ring in rings.items()}
        for _ in range(rounds if count <= FEW else max(rounds // 2, 1)):
            for name, ring in rings.items():
                times[name].append(timed(ring, x))
        figures += [
            Figure(kind, count, name, statistics.median(each)) for name, each in times.items()
        ]
    return figures


def takes(side: str, count: int) -> bool:
    """Weight-only kernels take seconds for many rows, and `mv` knows one."""
    return count == 1 if side == "mv" else not (side.startswith("weight_") and count > 128)


def timed(ring: list[Multiply], x: Tensor) -> float:
    """Seconds a layer."""
    start = time.perf_counter()
    for multiply in ring:
        multiply(x)
    return (time.perf_counter() - start) / len(ring)


def bandwidth(rounds: int) -> float:
    """GB/s that reading memory gives: the best of `torch.sum` over 400 MB of fp32."""
    (numbers,) = in_large_pages([torch.ones(100_000_000)])
    return (
        numbers.nbytes / min(timed([lambda _: numbers.sum()], numbers) for _ in range(rounds)) / 1e9
    )


def table(figures: list[Figure]) -> str:
    """A row for each side, a column for each number of rows; the native side's lead below."""
    kind = figures[0].kind
    names = list(dict.fromkeys(each.side for each in figures))
    by_place = {(each.side, each.count): each for each in figures}
    head = "".join(f" {count}{' rows' if count > 1 else ' row'} |" for count in COUNTS)
    lines = [f"| {kind} |{head}", "|---" * (len(COUNTS) + 1) + "|"]
    for name in names:
        cells = [by_place.get((name, count)) for count in COUNTS]
        lines.append(
            f"| {name} | " + " | ".join(each.text if each else "" for each in cells) + " |"
        )
    leads = " | ".join(lead(figures, count) for count in COUNTS)
    lines.append(f"| native / best of torch | {leads} |")
    return "\n".join(lines) + "\n"


def lead(figures: list[Figure], count: int) -> str:
    """How many times as fast as the best of torch's kernels."""
    here = {each.side: each.seconds for each in figures if each.count == count}
    theirs = [seconds for name, seconds in here.items() if name != "native"]
    return f"{min(theirs) / here['native']:.2f}" if theirs else ""


def page(figures: list[Figure], gigabytes: float, native: Library) -> str:
    """The document."""
    tables = [table([e for e in figures if e.kind == kind]) for kind in kinds_of(figures)]
    missing = [kind for kind in KINDS if kind not in kinds_of(figures)]
    facts = machine()
    return (
        "# Linear layers\n\nMade by `python engine/bench/kernels.py`, which says what is measured: "
        f"a layer of {ROWS} x {COLS}, its weights from memory. Up to {FEW} rows: GB/s of weights; "
        "above: GFLOP/s. [Where the time goes, and what was tried](kernels-profile.md).\n\n"
        + "\n".join(tables)
        + "\n![GB/s](kernels.png)\n\n"
        f"Each table may be a run of its own. Not measured: {', '.join(missing) or 'none'}. "
        f"Reading memory with `torch.sum`, in the best of these runs: {gigabytes:.1f} GB/s.\n"
        f"{facts['machine']}; {facts['versions']}; native kernels for {native.instructions}.\n"
    )


def kinds_of(figures: list[Figure]) -> list[Kind]:
    """Those measured, in order."""
    return [kind for kind in KINDS if any(each.kind == kind for each in figures)]


def plot(figures: list[Figure], gigabytes: float, path: Path) -> None:
    """GB/s of weights over the number of rows: a panel for each kind."""
    import matplotlib.pyplot as plt

    kinds = kinds_of(figures)
    picture, panels = plt.subplots(1, len(kinds), figsize=(4 * len(kinds), 3.6), squeeze=False)
    for axes, kind in zip(panels[0], kinds, strict=True):
        few = [each for each in figures if each.kind == kind and each.count <= FEW]
        for name in dict.fromkeys(each.side for each in few):
            line = [each for each in few if each.side == name]
            style = {"color": "#2563a8", "linewidth": 2.5} if name == "native" else {}
            places = [each.count for each in line]
            axes.plot(places, [e.gigabytes for e in line], marker="o", label=name, **style)
        axes.axhline(gigabytes, color="#999999", linestyle=":", label="torch.sum")
        axes.set(title=kind, xscale="log", xlabel="rows", ylabel="GB/s of weights", ylim=(0, None))
        axes.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        axes.legend(fontsize=7)
    picture.tight_layout()
    picture.savefig(path, dpi=110)


def kept(path: Path, *, without: Iterable[Kind]) -> tuple[list[Figure], float]:
    """Figures of kinds that are not measured now, and GB/s of reading memory in their runs."""
    found = json.loads(path.read_text()) if path.exists() else {"figures": []}
    figures = [Figure(**each) for each in found["figures"] if each["kind"] not in without]
    return figures, found["read_gigabytes"] if figures else 0.0


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Linear layers, native and torch's.")
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    native = library.native()
    if not isinstance(native, Library):
        parser.exit(1, f"no native kernels: {native.reason}\n")
    figures, before = kept(args.out / "kernels.json", without=args.kind or KINDS)
    gigabytes = max(bandwidth(args.rounds), before)
    figures += [e for kind in args.kind or KINDS for e in measure(kind, native, args.rounds)]
    args.out.mkdir(exist_ok=True, parents=True)
    found = {"figures": [*map(asdict, figures)], "read_gigabytes": gigabytes, **machine()}
    (args.out / "kernels.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "kernels.md").write_text(page(figures, gigabytes, native))
    plot(figures, gigabytes, args.out / "kernels.png")
    print(page(figures, gigabytes, native))


if __name__ == "__main__":
    main()
