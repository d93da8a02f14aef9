"""Slot files that somebody else has written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from libertai_engine.errors import SlotFileError
from libertai_engine.model.kv_cache import KVPrefix
from libertai_engine.model.slot_file import FORMAT, read_slot_file, write_slot_file

MODEL = "a model"
LANE = torch.arange(24.0).reshape(2, 3, 4)  # [kv_head, length, head_dim]


def write(path: Path) -> None:
    write_slot_file(path, [1, 2, 3], KVPrefix((LANE,), (LANE + 1,), 3), MODEL)


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    """Tokens, keys and values, bit by bit."""
    write(tmp_path / "slot")
    token_ids, prefix, about = read_slot_file(tmp_path / "slot", MODEL, 8)
    assert token_ids == [1, 2, 3] and prefix.length == about.num_tokens == 3
    assert torch.equal(prefix.keys[0], LANE) and torch.equal(prefix.values[0], LANE + 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"token_ids": torch.tensor(5)},
        {"token_ids": torch.tensor([[1], [2], [3]])},
        {"token_ids": torch.tensor([1.5, 2.5, 3.5])},
        {"token_ids": torch.tensor([1, 2])},
        {"keys.0": LANE[:, :2].contiguous()},
        {"keys.0": LANE.flatten()},
        {"more": LANE},
        {"more": LANE, "still.more": LANE + 2},
    ],
)
def test_a_file_of_another_form_is_refused(
    tmp_path: Path, changes: dict[str, torch.Tensor]
) -> None:
    """The names of format and model are not enough."""
    path = tmp_path / "slot"
    write(path)
    save_file({**load_file(path), **changes}, path, metadata={"format": FORMAT, "model": MODEL})
    with pytest.raises(SlotFileError, match="Unable to restore slot"):
        read_slot_file(path, MODEL, 8)


def test_a_full_disk_is_called_one(tmp_path: Path) -> None:
    """And nothing is left of what was begun."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "slot"
    write(path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(SlotFileError, match=r"^Unable to save slot: File too large$"):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
