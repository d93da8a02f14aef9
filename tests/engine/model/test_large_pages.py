"""Weights that move to large pages stay what they are."""

from __future__ import annotations

import mmap
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from libertai_engine.model import large_pages
from libertai_engine.model.large_pages import LEAST_BYTES, move_to_large_pages
from libertai_engine.model.memory import mapped_files

SIDE = 2100  # of a square matrix of fp32 that is worth the way
HAS_LARGE_PAGES = hasattr(mmap, "MADV_HUGEPAGE") and large_pages.free_bytes() > 0


class Tied(nn.Module):
    """Two layers with one weight, a third with the same memory, a buffer, and an odd piece."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Linear(SIDE, SIDE).requires_grad_(False)
        self.two = nn.Linear(SIDE, SIDE, bias=False)
        self.two.weight = self.one.weight
        self.three = nn.Linear(SIDE, SIDE, bias=False)
        self.three.weight = nn.Parameter(self.one.weight.detach(), requires_grad=False)
        self.register_buffer("codes", torch.arange(7, dtype=torch.uint8))
        self.register_buffer("columns", torch.rand(30, 20).T)


@pytest.mark.skipif(not HAS_LARGE_PAGES, reason="this system has no large pages")
def test_weights_move_and_stay() -> None:
    """The same numbers at other places; what shared memory shares it still."""
    module = Tied()
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in all_of(module)}
    moved = move_to_large_pages(module)
    assert SIDE * SIDE * 4 < moved < SIDE * SIDE * 4 + 20_000  # once, and not thrice
    for name, tensor in all_of(module):
        address, numbers = before[name]
        assert torch.equal(tensor, numbers)
        assert (tensor.data_ptr() == address) == (name == "columns"), name
    assert module.two.weight is module.one.weight
    assert module.three.weight.data_ptr() == module.one.weight.data_ptr()
    assert module.one.weight.data_ptr() % 4096 == 0


@pytest.mark.skipif(not HAS_LARGE_PAGES, reason="this system has no large pages")
def test_what_the_weights_lay_in_is_given_back(tmp_path: Path) -> None:
    """A mapped file is not mapped any more, so nothing is in memory twice."""
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(SIDE, SIDE)}, path)
    module = nn.Linear(SIDE, SIDE, bias=False)
    module.load_state_dict(load_file(path), assign=True)
    assert str(path) in Path("/proc/self/maps").read_text()
    assert move_to_large_pages(module)
    assert str(path) not in Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not HAS_LARGE_PAGES, reason="this system has no large pages")
@pytest.mark.parametrize("lies_in_file", [False, True])
def test_nothing_is_in_memory_twice_but_the_weight_at_work(
    tmp_path: Path, lies_in_file: bool
) -> None:
    """The most that the process has taken meanwhile, weights of its own or of a file."""
    layers = (nn.Linear(SIDE, SIDE, bias=False) for _ in range(8))
    module = nn.Sequential(*layers).requires_grad_(False)
    if lies_in_file:
        path = tmp_path / "weights.safetensors"
        save_file(module.state_dict(), path)
        module.load_state_dict(load_file(path), assign=True)
    numbers = [each.sum() for each in module.parameters()]  # they are in memory from now on
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    if status("VmHWM") > before + LEAST_BYTES // 4:
        pytest.skip("the most that was taken cannot be counted anew here")
    moved = move_to_large_pages(module)
    assert moved == 8 * -(-SIDE * SIDE * 4 // 4096) * 4096
    assert status("VmHWM") - before < moved // 2
    assert status("VmRSS") - before < moved // 4
    assert numbers == [each.sum() for each in module.parameters()]


def test_a_file_is_forgotten_only_where_nobody_has_changed_it(tmp_path: Path) -> None:
    """Numbers that were written to its memory are in no file."""
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.ones(SIDE, SIDE)}, path)
    for is_changed in (False, True):
        weight = load_file(path)["weight"]
        if is_changed:
            weight[SIDE // 2, 0] = 7
        mapped_files().forget(weight)
        assert weight.sum() == SIDE * SIDE + 6 * is_changed


def test_small_modules_stay() -> None:
    """They are read from caches."""
    module = nn.Linear(64, 64)
    address = module.weight.data_ptr()
    assert move_to_large_pages(module) == 0 and module.weight.data_ptr() == address


def test_nothing_moves_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapped file can be larger than what is free; a copy of it cannot."""
    module = nn.Linear(SIDE, SIDE)
    assert module.weight.nbytes > LEAST_BYTES
    address = module.weight.data_ptr()
    monkeypatch.setattr(large_pages, "free_bytes", lambda: 2 * LEAST_BYTES)
    assert move_to_large_pages(module) == 0 and module.weight.data_ptr() == address


@pytest.mark.skipif(not HAS_LARGE_PAGES, reason="this system has no large pages")
def test_a_container_has_its_own_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has taken counts, but for files, which it can read again; "max" is no limit."""
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text(f"{5 * LEAST_BYTES}\n")
    (tmp_path / "used").write_text(f"{4 * LEAST_BYTES + 7}\n")
    (tmp_path / "memory.stat").write_text("anon 1\nmy_active_file 3\nmy_inactive_file 4\n")
    unlimited = (tmp_path, "max", "used", "my_")
    missing = (tmp_path / "missing", "max", "used", "my_")
    monkeypatch.setattr(large_pages, "GROUPS", [unlimited, missing])
    assert large_pages.free_bytes() > 2 * LEAST_BYTES
    monkeypatch.setattr(large_pages, "GROUPS", [unlimited, (tmp_path, "limit", "used", "my_")])
    assert large_pages.free_bytes() == LEAST_BYTES
    assert move_to_large_pages(nn.Linear(SIDE, SIDE)) == 0
    (tmp_path / "used").write_text(f"{6 * LEAST_BYTES}\n")
    assert large_pages.free_bytes() == 0


def test_nothing_moves_where_large_pages_are_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a system takes the advice and gives small pages: a copy for nothing."""
    switch = tmp_path / "enabled"
    switch.write_text("always madvise [never]\n")
    monkeypatch.setattr(large_pages, "SWITCH", switch)
    assert move_to_large_pages(nn.Linear(SIDE, SIDE)) == 0


def test_nothing_moves_where_no_advice_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems without large pages."""
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert move_to_large_pages(nn.Linear(SIDE, SIDE)) == 0


def status(name: str) -> int:
    """What the system says of this process' memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def all_of(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters and buffers, by name."""
    return [*module.named_parameters(), *module.named_buffers()]
