"""A side in a process of its own: asked over a pipe, answering with JSON.

In: the name of a side. Out: its methods, called from here and run there. So each has its own
threads, its own thread library and its own memory, and waits silently while others work.

Run by itself (`python -m speed.process NAME`) this is the other end.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from speed.sides.base import Answer, Load, Work, memory

BENCH = Path(__file__).parents[1]
SIDES = {
    "libertai": ("speed.sides.ours", "Ours"),
    "llama.cpp": ("speed.sides.llamacpp", "LlamaCpp"),
    "generate": ("speed.sides.generate", "Generate"),
    "generate_batch": ("speed.sides.batch", "GenerateBatch"),
    "sampler": ("speed.sides.sampler", "OurSampler"),
    "llama.cpp sampler": ("speed.sides.llamacpp_sampler", "LlamaCppSampler"),
    "steered": ("speed.sides.steered", "Steered"),
    "http": ("speed.sides.over_http", "OverHttp"),
    "limits": ("speed.sides.limits", "Limits"),
}
OF_OURS = {"libertai", "sampler", "steered", "http"}
# What `libertai-engine` sets for itself; the others run as their users would run them.
OURS = {"OMP_WAIT_POLICY": "PASSIVE"}
ARGUMENTS: dict[str, type] = {"load": Load, "answer": Work}


class SideFailed(Exception):
    """What went wrong in a side's process, in one line."""


class Process:
    """One side. Invariant: it has answered everything that it was asked."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        search = [str(BENCH), str(BENCH.parent), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, search))
        if name in OF_OURS:
            environment |= {key: os.environ.get(key, value) for key, value in OURS.items()}
        begin = time.perf_counter()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "speed.process", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._receive()
        self.import_seconds = time.perf_counter() - begin

    def call(self, method: str, *args: Any) -> Any:
        """What the side's method returns. Raises `SideFailed`."""
        assert self._child.stdin is not None
        given = [asdict(each) if is_dataclass(each) and not isinstance(each, type) else each
                 for each in args]  # fmt: skip
        self._child.stdin.write(json.dumps({"method": method, "args": given}) + "\n")
        self._child.stdin.flush()
        return self._receive()

    def answer(self, work: Work) -> Answer:
        """Have the work done."""
        return Answer(**self.call("answer", work))

    def memory(self) -> Mapping[str, float]:
        """Bytes, as `base.memory` counts them."""
        told: dict[str, float] = self.call("memory")
        return told

    def _receive(self) -> Any:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise SideFailed(f"{self.name}: the process ended with {self._child.wait()}")
        told = json.loads(line)
        if "error" in told:
            raise SideFailed(f"{self.name}: {told['error']}")
        return told["result"]

    def close(self) -> None:
        """End the process, and wait for it."""
        if self._child.stdin is not None:
            self._child.stdin.close()
        if self._child.stdout is not None:
            self._child.stdout.close()
        self._child.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def serve(name: str) -> None:
    """Answer until nobody asks any more. Only JSON goes to the pipe; prints go to stderr."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(told: dict[str, Any]) -> None:
        pipe.write(json.dumps(told) + "\n")
        pipe.flush()

    try:
        module, kind = SIDES[name]
        side = getattr(importlib.import_module(module), kind)()
    except Exception as error:
        send({"error": f"{type(error).__name__}: {error}"})
        return
    send({"result": None})
    for line in sys.stdin:
        try:
            send({"result": _do(side, **json.loads(line))})
        except Exception as error:  # whoever asked decides what to make of it
            send({"error": f"{type(error).__name__}: {error}"})
    side.close()


def _do(side: Any, method: str, args: list[Any]) -> Any:
    if method == "memory":
        return memory()
    if method in ARGUMENTS:
        args = [ARGUMENTS[method](**args[0])]
    result = getattr(side, method)(*args)
    return asdict(result) if is_dataclass(result) and not isinstance(result, type) else result


if __name__ == "__main__":
    serve(sys.argv[1])
