"""`make bench`: speed beside llama.cpp, transformers and the limits of the machine.

Run: python engine/bench/run.py [--quick] [--only GROUP …] [--model 60M …] [--precision bf16 …]
In: flags. Out: speed.md, speed.json and speed_GROUP.png in the folder. Figures of cases that are
not measured now stay as an earlier run left them, and each says how many rounds it has and of which
day and commit it is: so a whole run can be made in parts, and ends well wherever it is stopped.

The models are made on the spot, with random weights: 9 GB of disk for all three, kept for the next
run in `--models`. A full run takes about half an hour on two cores, `--quick` two minutes; the
seconds of each group are told at its end.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the engine lies, if it is not installed

from tqdm import tqdm

from machine import described
from speed import plots, readme, record, tables
from speed.cases import GROUPS
from speed.contest import Terms, run
from speed.plan import PRECISIONS, Case, Scope
from speed.shapes import SHAPES

BENCH = Path(__file__).parent
RESULTS = BENCH / "results"
DATA = "speed.json"
PROFILE = "speed-profile.md"
PEERS = ("llama.cpp", "generate", "generate_batch")
HINT = """llama.cpp is not here, so nobody to compare integer weights with. To install it:
  CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON \\
    -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON \\
    -DGGML_AMX_TILE=OFF" pip install llama-cpp-python
(leave out what the processor does not have; -DGGML_NATIVE=ON alone finds out by itself)"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description="Speed beside peers and limits.")
    parser.add_argument("--quick", action="store_true", help="the smallest model, two rounds")
    parser.add_argument("--only", action="append", choices=list(GROUPS), help="these groups")
    parser.add_argument("--model", action="append", choices=list(SHAPES), help="default: all")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="default: all")
    parser.add_argument(
        "--without", action="append", choices=PEERS, default=[], help="no such peer"
    )
    parser.add_argument("--draw", action="store_true", help="measure nothing: draw what there is")
    parser.add_argument("--readme", type=Path, help="a README whose table of speeds is to be new")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of a case (default 5)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=15,
        help="a case ends at this age if it has 3 rounds, at three times of it with one",
    )
    parser.add_argument("--threads", type=int, default=_num_cores(), help="of every side")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the files")
    parser.add_argument("--models", type=Path, default=RESULTS / "models", help="their folder")
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.seconds = min(args.rounds, 2), min(args.seconds, 8.0)
        args.model = args.model or ["60M"]
    args.model = [name for name in SHAPES if name in (args.model or SHAPES)]
    args.precision = [each for each in PRECISIONS if each in (args.precision or PRECISIONS)]
    return args


def _num_cores() -> int:
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def measure(args: argparse.Namespace) -> None:
    """All cases that were asked for; what is found of one is written when it is done."""
    scope = Scope(models=args.model, precisions=args.precision, is_quick=args.quick)
    groups = {name: GROUPS[name](scope) for name in args.only or GROUPS}
    args.models.mkdir(parents=True, exist_ok=True)
    terms = Terms(
        rounds=args.rounds,
        seconds=args.seconds,
        threads=args.threads,
        folder=args.models,
        peers=frozenset(PEERS) - set(args.without),
        made=f"on {datetime.now(timezone.utc):%Y-%m-%d}{_commit()}",
    )
    with tqdm(total=sum(map(len, groups.values())), unit="case", dynamic_ncols=True) as bar:
        for name, cases in groups.items():
            seconds = measure_group(cases, terms, args.out, bar)
            bar.write(f"{name}: {len(cases)} cases in {seconds:.0f} s", file=sys.stderr)


def measure_group(cases: Sequence[Case], terms: Terms, folder: Path, bar: tqdm) -> float:
    """Its cases, one after another; returns the seconds that they took."""
    begin = time.perf_counter()

    def tick(label: str) -> None:
        bar.set_postfix_str(label)
        bar.update()

    for report in run(cases, terms, described(terms.threads), tick):
        keep(report, folder)
    return time.perf_counter() - begin


def _commit() -> str:
    """Names the state of the engine that is measured, where git knows it."""
    asked = ["rev-parse", "--short", "HEAD"]
    changes = [
        "status",
        "--porcelain",
        "--",
        "../libertai_engine/*.py",
        "../libertai_engine/kernels",
    ]
    try:
        head, changed = (
            subprocess.check_output(
                ["git", "-C", str(BENCH), *words], text=True, stderr=subprocess.DEVNULL
            )
            for words in (asked, changes)
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f" at commit {head.strip()}{' with changes' if changed.strip() else ''}"


def keep(report: record.Report, folder: Path) -> None:
    """Write the figures and, if there is an earlier file, what that knows besides."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / DATA
    record.write(record.read(data).updated(report) if data.exists() else report, data)


def draw(folder: Path, readme_file: Path | None = None) -> list[Path]:
    """Pages and pictures of the figures in a folder; returns the files."""
    report = record.read(folder / DATA)
    text = folder / "speed.md"
    text.write_text(tables.page(report, profile=PROFILE if (folder / PROFILE).exists() else ""))
    paths = [folder / DATA, text, *plots.draw(report, folder)]
    if readme_file is None:
        return paths
    readme_file.write_text(readme.filled(readme_file.read_text(), report))
    return [*paths, readme_file]


def main(argv: list[str] | None = None) -> int:
    """Measure, write, print; 0. What was measured before an interrupt is written, too: 130."""
    args = parse_args(argv)
    status = 0
    try:
        if not args.draw:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            if find_spec("llama_cpp") is None:
                print(HINT, file=sys.stderr)
            measure(args)
    except KeyboardInterrupt:
        status = 130
    if (args.out / DATA).exists():
        paths = draw(args.out, args.readme)
        print((args.out / "speed.md").read_text())
        print("\n".join(f"written: {path}" for path in paths))
    return status


if __name__ == "__main__":
    sys.exit(main())
