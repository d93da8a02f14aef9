"""Weights in pages of 2 MiB, as far as the system gives such.

In: a module. Out: the same module, its weights in one piece of memory of the process' own. Who
reads weights all the time is held up by finding pages of 4 KiB: with large ones a step of a model
with 1.1 billion parameters was 1.25 times as fast in bf16 and 1.07 in int4 (one row, one thread of
a virtual machine). Files are mapped in small pages by most systems, hence the copy.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import torch
from torch import Tensor, nn

from libertai_engine.model.memory import give_memory_back, mapped_files

LEAST_BYTES = 1 << 24
"""A module with less is read from the processor's caches."""

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
"""Says `[never]` where advice about pages is taken, and then left aside."""

GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", ""),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)
"""Control groups: where they tell in bytes what they may take and have taken, and how names in
their `memory.stat` begin."""

_PAGE = 1 << 12
_FREED = 1 << 25  # bytes that are worth a call of the system
_Place = tuple[int, torch.dtype, torch.Size, tuple[int, ...]]
_Owner = tuple[nn.Module, str, Tensor]


@torch.no_grad()
def move_to_large_pages(module: nn.Module) -> int:
    """Copy the weights, one after the other; the number of bytes that were moved.

    Each is freed when it is copied, so that nothing is in memory twice but the one at work. None
    are moved where the system has no large pages, for modules with less than `LEAST_BYTES` on the
    CPU, and where they take more than half of the memory that is free or can be freed.
    Addresses change: to be called before anybody keeps them. Tensors that share memory go on
    sharing it.
    """
    owners = _owners(module)
    total = sum(_padded(each[0][2]) for each in owners.values())
    if total < LEAST_BYTES or total > free_bytes() // 2:
        return 0
    memory = _large_pages(total)
    if memory is None:
        return 0
    files = mapped_files()
    begin = freed = 0
    for place in list(owners):
        old = owners[place][0][2]
        piece = memory[begin : begin + old.nbytes]
        new = piece.view(old.dtype).view(old.shape).copy_(old)
        begin += _padded(old)
        freed += old.nbytes
        files.forget(old)
        _replace(owners.pop(place), new)
        del old  # the last name that its memory has
        if freed >= _FREED:
            give_memory_back()
            freed = 0
    give_memory_back()
    return total


def _owners(module: nn.Module) -> dict[_Place, list[_Owner]]:
    """Who has the weights of each place, and under which name."""
    found: dict[_Place, list[_Owner]] = {}
    for part in module.modules():
        for name, tensor in _tensors(part):
            found.setdefault(_place(tensor), []).append((part, name, tensor))
    return found


def _padded(tensor: Tensor) -> int:
    """Bytes of whole pages."""
    return -(-tensor.nbytes // _PAGE) * _PAGE


def _replace(owners: list[_Owner], new: Tensor) -> None:
    """Give all of them `new`; who had the same object has one again.

    NOTE: tensors are replaced: those of files are views, which keep their file whatever becomes of
    their data.
    """
    made: dict[int, Tensor] = {}
    for part, name, old in owners:
        setattr(part, name, made.setdefault(id(old), _like(old, new)))


def free_bytes() -> int:
    """Memory that is free or can be freed, on the machine and in the process' control group.

    0 where the system does not tell.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    free = int(found[0]) * 1024 if found else 0
    left = [_left_in(*group) for group in GROUPS]
    return min([free, *(each for each in left if each is not None)])


def _left_in(folder: Path, limit: str, taken: str, prefix: str) -> int | None:
    """What a control group may still take, files that it could forget included."""
    try:
        most, used = (int((folder / name).read_text()) for name in (limit, taken))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cached = sum(int(stat[f"{prefix}{kind}_file"]) for kind in ("active", "inactive"))
    except (OSError, ValueError, KeyError):  # there is no such group, or it says "max"
        return None
    return max(0, most - used + cached)


def _large_pages(size: int) -> Tensor | None:
    """Bytes in pages as large as there are when they are first written; they live with the tensor.

    None where no advice about pages is taken.
    """
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None:
        return None
    try:
        if "[never]" in SWITCH.read_text():
            return None
        # NOTE: shared memory, the default, has large pages by a switch of its own.
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(advice)
    except OSError:
        return None
    return torch.frombuffer(memory, dtype=torch.uint8)


def _tensors(part: nn.Module) -> list[tuple[str, Tensor]]:
    """A module's own weights that can move, with their names."""
    own = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
    return [(name, tensor) for name, tensor in own if _can_move(tensor)]


def _like(old: Tensor, new: Tensor) -> Tensor:
    """`new` as what `old` is to its module."""
    if isinstance(old, nn.Parameter):
        return nn.Parameter(new, requires_grad=old.requires_grad)
    return new


def _can_move(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.nbytes > 0


def _place(tensor: Tensor) -> _Place:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
