"""`make bench`: decode and prefill against transformers' `generate`, and the time imports take.

Run: python engine/bench/run.py [--quick] [--rounds N] [--dtype fp32|bf16] [--out FOLDER]
In: flags. Out: a table on the terminal; speed.md, speed.json and speed.png in the folder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

import import_time
import models
from contest import Case, Result, contest
from report import save, summarize, to_table

RESULTS = Path(__file__).parent / "results"
DTYPES = ("fp32", "bf16")
CASES = [
    Case(kind=kind, streams=streams, prompt=prompt, new=new)
    for kind, prompt, new in (("decode", 16, 64), ("prefill", 384, 1))
    for streams in (1, 4)
]


def parse_args() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description="Speed against transformers' generate.")
    parser.add_argument("--rounds", type=int, default=7, help="rounds a case (default 7)")
    parser.add_argument("--quick", action="store_true", help="two rounds, fp32 only")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="default: both")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the files")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.dtype = 2, args.dtype or ["fp32"]
    return args


def run(args: argparse.Namespace) -> list[Result]:
    """Every model with every dtype."""
    dtypes: list[Any] = args.dtype or list(DTYPES)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        random_llama = models.make_random_llama(Path(folder))
        folders = {"demo model": models.demo_folder(), "random Llama, 60M": random_llama}
        total = len(folders) * len(dtypes) * len(CASES) * (args.rounds + 1)
        with tqdm(total=total, unit="round", dynamic_ncols=True, mininterval=1) as bar:

            def tick(label: str) -> None:
                bar.set_description(label)
                bar.update()

            for name, path in folders.items():
                for dtype in dtypes:
                    results += contest(name, path, dtype, CASES, num_rounds=args.rounds, tick=tick)
    return results


def main() -> int:
    """Run both benchmarks; the exit code is that of the import limit."""
    args = parse_args()
    disable_progress_bar()  # ours is enough
    print("Import time, fresh interpreters:")
    code = import_time.main()
    print("\nSpeed, in turns with transformers' generate:")
    rows = [summarize(result) for result in run(args)]
    print(f"\n{to_table(rows)}\n")
    for path in save(rows, args.out):
        print(f"written: {path}")
    return code


if __name__ == "__main__":
    sys.exit(main())
