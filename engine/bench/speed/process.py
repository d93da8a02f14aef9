"""A side in a process of its own: asked over a pipe, answering with JSON.

In: the name of a side. Out: its methods, called from here and run there. So each has its own
threads, its own thread library and its own memory, and waits silently while others work. One that
does not answer in time is ended, with all that it started.

Run by itself (`python -m speed.process NAME`) this is the other end.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

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
PATIENCE = 240.0  # seconds for one answer, a long prompt and a model that is being made included
GOODBYE = 10.0  # seconds to end


class SideFailed(Exception):
    """What went wrong in a side's process, in one line. `side` is its name."""

    def __init__(self, side: str, reason: str) -> None:
        super().__init__(f"{side}: {reason}")
        self.side = side


class Process:
    """One side. Invariant: it has answered everything that it was asked, or is ended."""

    def __init__(self, name: str, threads: int, *, patience: float = PATIENCE) -> None:
        """Starts it, and waits for nothing: several can start at the same time."""
        self.name = name
        self._patience = patience
        self._is_ready = False
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        search = [str(BENCH), str(BENCH.parent), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, search))
        if name in OF_OURS:
            environment |= {key: os.environ.get(key, value) for key, value in OURS.items()}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "speed.process", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def call(self, method: str, *args: Any) -> Any:
        """What the side's method returns. Raises `SideFailed`."""
        assert self._child.stdin is not None
        if not self._is_ready:
            self._receive()
            self._is_ready = True
        given = [asdict(each) if is_dataclass(each) and not isinstance(each, type) else each
                 for each in args]  # fmt: skip
        try:
            self._child.stdin.write(json.dumps({"method": method, "args": given}) + "\n")
            self._child.stdin.flush()
        except OSError:
            raise self._ended() from None
        return self._receive()

    def answer(self, work: Work) -> Answer:
        """Have the work done, all of it. Raises `SideFailed`, for too few tokens too."""
        answer = Answer(**self.call("answer", work))
        wrong = answer.difference(work)
        if wrong:
            raise SideFailed(self.name, wrong)
        return answer

    def memory(self) -> Mapping[str, float]:
        """Bytes, as `base.memory` counts them."""
        told: dict[str, float] = self.call("memory")
        return told

    def _receive(self) -> Any:
        assert self._child.stdout is not None
        alarm = threading.Timer(self._patience, self._kill)
        alarm.start()
        line = self._child.stdout.readline()
        is_late = not alarm.is_alive()
        alarm.cancel()
        if not line:
            late = SideFailed(self.name, f"no answer within {self._patience:.0f} s")
            raise late if is_late else self._ended()
        told = json.loads(line)
        if "error" in told:
            raise SideFailed(self.name, told["error"])
        return told["result"]

    def _ended(self) -> SideFailed:
        return SideFailed(self.name, f"the process ended with {self._child.wait()}")

    def _kill(self) -> None:
        """End the process and those that it started, whatever they are doing."""
        try:
            family = psutil.Process(self._child.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        self._child.kill()
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()

    def close(self) -> None:
        """End the process, and wait for it."""
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._child.wait(GOODBYE)
        except subprocess.TimeoutExpired:
            self._kill()
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
