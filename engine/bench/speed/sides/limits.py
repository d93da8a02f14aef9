"""What the machine can do at most: bytes read a second, multiplications a second.

In: nothing. Out: the best of a few ways that torch has, measured beside everybody else.
"""

from __future__ import annotations

import contextlib
import mmap
import statistics
import time
from collections.abc import Callable

import torch

from speed.sides.base import Load

READ_BYTES = 512 << 20  # far more than any cache holds
ROWS, COLUMNS, DEPTH = 1024, 4096, 2048


class Limits:
    """Not a side that answers, but the line that none can pass."""

    def __init__(self) -> None:
        self._read = torch.empty(0)

    def load(self, load: Load) -> dict[str, str]:
        """Make the operands."""
        torch.set_num_threads(load.threads)
        self._read = _large_pages(READ_BYTES).fill_(1)
        self._left = torch.randn(ROWS, DEPTH)
        self._right = torch.randn(COLUMNS, DEPTH)
        return {}

    def bandwidth(self) -> float:
        """Bytes a second that are read from memory: a sum, or a product with itself.

        The middle of several reads: single ones are far faster where others leave the memory alone
        for a moment, and a step lasts longer than that.
        """
        ways: list[Callable[[], object]] = [
            self._read.sum,
            lambda: torch.dot(self._read, self._read),
        ]
        return READ_BYTES / min(statistics.median(_seconds(way, 8)) for way in ways)

    def throughput(self, precision: str) -> float:
        """Operations a second of a large matrix product in this precision."""
        flop = 2.0 * ROWS * COLUMNS * DEPTH
        if precision in ("int8", "int4"):
            left, right = self._left.to(torch.int8), self._right.to(torch.int8).t().contiguous()
            return flop / _best(lambda: torch._int_mm(left, right), 3)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        left, right = self._left.to(dtype), self._right.to(dtype)
        return flop / _best(lambda: torch.nn.functional.linear(left, right), 3)

    def close(self) -> None:
        """Let the operands go."""
        self._read = torch.empty(0)


def _large_pages(size: int) -> torch.Tensor:
    """fp32 numbers in pages of 2 MiB, where the system has such: small ones are read slower."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32)


def _best(work: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest round behind a first one."""
    return min(_seconds(work, rounds))


def _seconds(work: Callable[[], object], rounds: int) -> list[float]:
    """Of each round behind a first one."""
    seconds = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return seconds[1:]
