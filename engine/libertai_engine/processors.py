"""Which processors this process uses, how many threads that makes, and what memory costs there.

In: what was asked for; what the operating system says of cores, affinity and quotas. Out: torch's
number of threads, a process bound to some processors, and a C library that keeps its memory.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from libertai_engine.errors import InvalidRequest

logger = logging.getLogger(__name__)

SYSTEM = Path("/")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt
KEPT_BYTES = 256 << 20  # of freed memory that stays with the process
LARGEST_KEPT = 32 << 20  # glibc takes no more for one piece


def settle(threads: int | None, processors: Collection[int] | None) -> None:
    """Make this process ready for a model: for all of it, since torch knows one number of threads.

    `threads` None: as `default_threads`, or fewer if torch was told so. Raises `InvalidRequest` for
    `processors` that cannot be had.
    """
    import torch

    if processors is not None:
        bind(processors)
    keep_memory()
    if threads is not None and threads > (most := most_threads()):
        told = "%d threads (-t) on %d processors wait for each other and may be many times slower"
        logger.warning(told, threads, most)
    torch.set_num_threads(threads or min(torch.get_num_threads(), default_threads()))


def allowed_processors() -> frozenset[int]:
    """The logical processors that the process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def default_threads(system: Path = SYSTEM, allowed: Collection[int] | None = None) -> int:
    """One thread for each physical core of `allowed` processors, and no more than the quota has.

    Two hardware threads of a core share what multiplies matrices, so that a second one only gets
    in the way; a container with a quota is stopped for what its threads use beyond it.
    """
    allowed = allowed_processors() if allowed is None else allowed
    num_cores = len({_siblings(system, each) for each in allowed})
    quota = _quota(system)
    return num_cores if quota is None else max(1, min(num_cores, math.floor(quota)))


def most_threads(system: Path = SYSTEM, allowed: Collection[int] | None = None) -> int:
    """As many threads as can run at once: one for each processor, as far as the quota goes."""
    num_processors = len(allowed_processors() if allowed is None else allowed)
    quota = _quota(system)
    return num_processors if quota is None else max(1, min(num_processors, math.ceil(quota)))


def bind(processors: Collection[int]) -> None:
    """Run on these processors only, all threads, those to come included.

    Raises `InvalidRequest` for processors that the process may not use, or where the system knows
    no such binding or forbids it.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise InvalidRequest("`cpus`: this system binds no process to processors", field="cpus")
    unknown = sorted(set(processors) - allowed_processors())
    if unknown or not processors:
        message = f"`cpus` must be some of {spell(allowed_processors())}"
        raise InvalidRequest(message, field="cpus")
    try:
        for task in os.listdir("/proc/self/task") if Path("/proc/self/task").is_dir() else ["0"]:
            with suppress(ProcessLookupError):  # a thread that has just ended
                os.sched_setaffinity(int(task), processors)
    except OSError as error:
        reason = error.strerror or error
        message = f"`cpus` (--cpus): the system refuses {spell(processors)}: {reason}"
        raise InvalidRequest(message, field="cpus") from error


def keep_memory() -> bool:
    """Have the C library keep freed memory for the next step; whether it does.

    A step frees some megabytes and the next one asks for them again. glibc gives pieces of that
    size back to the system at once, which clears every page anew: half of the time of a pass over
    a large vocabulary.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    is_set = mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    return bool(is_set)


def read_processors(text: str) -> tuple[int, ...]:
    """`"0-2,5"` to `(0, 1, 2, 5)`. Raises `ValueError`."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if not 0 <= low <= high < 1 << 16:
            raise ValueError(f"{part!r} is no range of processors")
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def spell(processors: Collection[int]) -> str:
    """The inverse of `read_processors`."""
    parts: list[list[int]] = []
    for each in sorted(processors):
        if parts and each == parts[-1][-1] + 1:
            parts[-1].append(each)
        else:
            parts.append([each])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in parts)


def _siblings(system: Path, processor: int) -> str:
    """What names the core of a processor; the processor itself where nothing is known."""
    topology = system / "sys/devices/system/cpu" / f"cpu{processor}" / "topology"
    return _read(topology / "thread_siblings_list") or str(processor)


def _quota(system: Path) -> float | None:
    """Processors' worth of time that the control groups of the process allow, if they limit it."""
    quotas = [_group_quota(folder) for folder in _groups(system)]
    return min((each for each in quotas if each is not None), default=None)


def _groups(system: Path) -> list[Path]:
    """The folders of the process's control groups (of both versions) and of those above them."""
    root = system / "sys/fs/cgroup"
    folders = []
    for line in _read(system / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        own = base / path.lstrip("/")
        # NOTE: inside a container the path may be the host's, which is not there.
        folders += [own, *own.parents[: len(own.parts) - len(base.parts)], base]
    return folders


def _group_quota(folder: Path) -> float | None:
    new = _read(folder / "cpu.max").split()
    old = [_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    quota, period = new if len(new) == 2 else old
    if not (quota.isdecimal() and period.isdecimal()) or int(period) == 0:  # "max", "-1", nothing
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
