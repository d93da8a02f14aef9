"""Where the time of a step goes: what the thread that runs the model was doing, sample by sample.

Run: python engine/bench/profile_step.py [--model 1.1B …] [--precision bf16 …] [--out docs/bench]
In: flags. Out: profile.md, profile.json and profile.png in the folder; what is not measured now
stays as an earlier run left it. Linux's `perf` is needed, and leave to use it.

An engine answers one stream behind 256 tokens, or eight, or reads prompts of 256 tokens, and `perf`
looks a thousand times a second where its thread is. The thread takes part in all native work, so
its samples are shares of a step's time. Where it waits for other threads or programs without
running, there is no sample: that is told beside. Models are those of `run.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the engine lies, if it is not installed
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from libertai_engine import Engine, EngineConfig, load_engine
from libertai_engine.stream import Stream
from machine import machine
from speed.plan import PRECISIONS
from speed.shapes import SHAPES
from speed.shelf import Shelf
from speed.sides.ours import request_of
from speed.tables import markdown

RATE = 1000  # samples a second
WORKS = ("answer", "8 answers", "prompt")
PROMPT, SHORT = 256, 16  # tokens
CONTEXT = 2048
ROOM = 64  # tokens more than are asked for: an answer may end a character
# The first that fits says what a sample is: a part, then what is in a library's and in a
# function's name.
PARTS = (
    ("their inputs", r"kernels-", r"prepare|to_bf16|libertai_linear"),
    ("attention", r"kernels-", r"attend|Attending|decode::(mix|score|join|merge|.*pairs)"),
    ("norms, rotation, waits", r"kernels-", r"decode::|decoder"),
    ("matrices", r"kernels-", r""),
    ("matrices", r"libtorch|libdnnl|libmkl", r"dnnl|mkldnn|gemm|cblas|mkl_"),
    ("matrices", r"perf-\d+\.map|//anon|\[unknown\]|JIT", r""),  # oneDNN writes code for itself
    ("attention", r"libtorch", r"attention|softmax"),
    ("other tensors", r"libtorch|libc10|torch", r""),
    ("waits for threads", r"libgomp|libomp", r""),
    ("Python", r"python|ctypes|libffi", r""),
    ("the rest", r"", r""),
)
NAMES = ("matrices", *dict.fromkeys(part for part, _, _ in PARTS if part != "matrices"))
SAMPLE = re.compile(r"^\s*[0-9a-f]+\s+(.*)\s\((.*)\)\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kind of work. `milliseconds` are a step's, or a prompt's.

    `shares` are those of the time in which the thread ran, and add up to 1; `asleep` is the share
    of the whole time in which it did not.
    """

    model: str
    precision: str
    work: str
    milliseconds: float
    shares: dict[str, float]
    asleep: float

    @property
    def key(self) -> tuple[str, str, str]:
        """Names the work."""
        return (self.model, self.precision, self.work)


def part_of(symbol: str, library: str) -> str:
    """What a sample in this function was doing."""
    return next(
        part
        for part, libraries, symbols in PARTS
        if re.search(libraries, library) and re.search(symbols, symbol)
    )


def shares_of(lines: Iterable[str]) -> dict[str, float]:
    """How the samples are shared among the parts. Raises `ValueError` if there are none."""
    found = (SAMPLE.match(line) for line in lines)
    counts = Counter(part_of(each[1], each[2]) for each in found if each)
    if not counts:
        raise ValueError("perf saw nothing of the engine's thread")
    return {name: counts[name] / counts.total() for name in NAMES}


def sampled(seconds: float, work: Callable[[Callable[[], bool]], None]) -> list[str]:
    """Samples of the engine's thread, a line each, while `work` runs; it asks when it may end."""
    (thread,) = [each for each in threading.enumerate() if each.name == "libertai-engine"]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        begin = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(RATE), "-o", str(data)]
        child = subprocess.Popen([*begin, "-t", str(thread.native_id), "sleep", str(seconds)])
        try:
            work(lambda: child.poll() is not None)
        finally:
            status = child.wait()
        if status:
            raise SystemExit(f"perf ended with {status}")
        show = ["perf", "script", "-i", str(data), "-F", "ip,sym,dso"]
        return subprocess.run(show, capture_output=True, text=True, check=True).stdout.splitlines()


def answers(engine: Engine, streams: int, seconds: float) -> tuple[list[str], float]:
    """Samples of steps behind a first few, and seconds of a step."""
    ids = [random_ids(PROMPT if streams == 1 else SHORT, number) for number in range(streams)]
    steps: list[float] = []
    new = CONTEXT - PROMPT - ROOM
    asked = [request_of(each, new, index=index) for index, each in enumerate(ids)]
    with closing(engine.submit(*asked)) as stream:
        news = iter(stream)
        for _ in range(4 * streams):
            next(news)

        def read_on(is_over: Callable[[], bool]) -> None:
            while not is_over():
                for _ in range(streams):
                    next(news)
                steps.append(time.perf_counter())

        lines = sampled(seconds, read_on)
    return lines, (steps[-1] - steps[0]) / (len(steps) - 1)


def prompts(engine: Engine, seconds: float) -> tuple[list[str], float]:
    """Samples of prompts, one behind another, and seconds of a prompt."""
    times: list[float] = []

    def read_prompts(is_over: Callable[[], bool]) -> None:
        while not is_over() or len(times) < 2:
            _read(engine.submit(request_of(random_ids(PROMPT, len(times)), 1)))
            times.append(time.perf_counter())

    _read(engine.submit(request_of(random_ids(PROMPT, -1), 1)))
    lines = sampled(seconds, read_prompts)
    return lines, (times[-1] - times[0]) / (len(times) - 1)


def _read(stream: Stream) -> None:
    for _ in stream:
        pass


def random_ids(count: int, seed: int) -> list[int]:
    """Of a prompt: none is a control token."""
    return [300 + (7919 * (seed + 2) * (place + 1)) % 30_000 for place in range(count)]


def measured(model: str, precision: str, args: argparse.Namespace) -> list[Profile]:
    """All work of one model, on one engine."""
    config = EngineConfig(
        model=str(Shelf(args.models).folder(model)),
        dtype=precision,
        threads=args.threads,
        num_slots=8,
        context_size=CONTEXT,
        max_draft=0,
        measures_quality=False,
    )
    found = []
    with load_engine(config, progress=False) as engine:
        for work in WORKS:
            if work == "prompt":
                lines, seconds = prompts(engine, args.seconds)
            else:
                lines, seconds = answers(engine, 1 if work == "answer" else 8, args.seconds)
            found.append(
                Profile(
                    model=model,
                    precision=precision,
                    work=work,
                    milliseconds=1e3 * seconds,
                    shares=shares_of(lines),
                    asleep=max(0.0, 1 - len(lines) / (RATE * args.seconds)),
                )
            )
    return found


def page(profiles: Sequence[Profile], about: str) -> str:
    """Markdown."""
    head = ("model", "weights", "work", "ms", *NAMES, "asleep")
    body = [
        (
            *each.key,
            f"{each.milliseconds:.1f}",
            *(f"{100 * each.shares[name]:.1f}" for name in NAMES),
            f"{100 * each.asleep:.0f}",
        )
        for each in profiles
    ]
    return (
        "# Where the time of a step goes\n\n"
        "Made by `python engine/bench/profile_step.py`, which says how. Milliseconds of a step of "
        f"one answer behind {PROMPT} tokens, of a step of 8 answers, of a prompt of {PROMPT} "
        "tokens; then the parts of the time in which the thread that runs the model ran, in per "
        "cent. Asleep: the per cent of the whole time in which it did not run, waiting for other "
        "threads, or for other programs where the machine was not quiet.\n\n"
        f"{markdown(head, body)}\n\n![Shares](profile.png)\n\n{about}\n"
    )


def draw(profiles: Sequence[Profile], path: Path) -> None:
    """A bar for each kind of work."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(9, 1.2 + 0.32 * len(profiles)), layout="constrained")
    names = [" ".join(each.key) for each in profiles]
    left = [0.0] * len(profiles)
    for number, name in enumerate(NAMES):
        widths = [100 * each.shares[name] for each in profiles]
        axis.barh(names, widths, left=left, label=name, color=pyplot.cm.tab10(number))
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.invert_yaxis()
    axis.set_xlabel("per cent of the time")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags."""
    results = Path(__file__).parent / "results"
    parser = argparse.ArgumentParser(description="Where the time of a step goes.")
    parser.add_argument("--model", action="append", choices=list(SHAPES), help="default: 1.1B, 60M")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="default: all")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each kind of work")
    parser.add_argument("--threads", type=int, help="default: one for each core")
    parser.add_argument("--out", type=Path, default=results, help="folder for the files")
    parser.add_argument("--models", type=Path, default=results / "models", help="their folder")
    return parser.parse_args(argv)


def keep(found: Sequence[Profile], folder: Path) -> list[Profile]:
    """Write figures, and those that the folder has of other work; returns all."""
    data = folder / "profile.json"
    known = [Profile(**each) for each in json.loads(data.read_text())] if data.exists() else []
    profiles = {each.key: each for each in (*known, *found)}
    data.write_text(json.dumps([asdict(each) for each in profiles.values()], indent=1) + "\n")
    return list(profiles.values())


def main(argv: list[str] | None = None) -> int:
    """Measure, write, print; 0. What one model was found to do is written when it is known."""
    args = parse_args(argv)
    if shutil.which("perf") is None:
        raise SystemExit("perf is not here: it comes with Linux's tools (linux-perf)")
    args.out.mkdir(parents=True, exist_ok=True)
    for model in args.model or ("1.1B", "60M"):
        for precision in args.precision or PRECISIONS[1:]:
            profiles = keep(measured(model, precision, args), args.out)
            text = page(profiles, "; ".join(machine().values()) + ".")
            (args.out / "profile.md").write_text(text)
    draw(profiles, args.out / "profile.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
