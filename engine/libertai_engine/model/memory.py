"""Memory that is not needed any more goes back to the system at once, not when all of it is free.

In: tensors whose numbers are elsewhere by now. Out: nothing; the process takes less.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

MAPS = Path("/proc/self/smaps")
"""Tells what is mapped where, and how much of it was written to."""


def give_memory_back() -> None:
    """Return to the system what was freed. NOTE: glibc keeps it where pieces of it are in use."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems have no such call
        ctypes.CDLL(None).malloc_trim(0)


@dataclass(frozen=True, slots=True)
class MappedFiles:
    """Stretches `[start, end)` of addresses where files are mapped that nobody has changed there.

    Invariant: what lies there is in the file, so that forgetting it changes no number.
    """

    stretches: tuple[tuple[int, int], ...]

    def forget(self, tensor: Tensor) -> None:
        """Let the pages go that hold nothing but this tensor, if it lies in such a file.

        Whoever reads it yet gets them from the file again. The system goes on caching that.
        """
        start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        if not any(first <= start and end <= last for first, last in self.stretches):
            return
        start, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end - end % mmap.PAGESIZE
        if start < end:
            ctypes.CDLL(None).madvise(
                ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED
            )


def mapped_files() -> MappedFiles:
    """The files that are mapped now; none where the system does not tell."""
    try:
        lines = MAPS.read_text(errors="replace").splitlines()
    except OSError:
        return MappedFiles(())
    found: list[tuple[int, int]] = []
    place: tuple[int, int] | None = None
    for line in lines:
        first, *others = line.split()
        if not first.endswith(":"):  # start-end permissions offset device inode path
            start, end = (int(each, 16) for each in first.split("-"))
            place = (start, end) if len(others) > 4 and others[4].startswith("/") else None
        elif first == "Anonymous:" and place is not None and others[0] == "0":
            found.append(place)
    return MappedFiles(tuple(found))
