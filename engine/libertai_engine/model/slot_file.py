"""Slots on disk: one safetensors file holds a lane's tokens and its keys and values.

In: a prefix and a path. Out: the file, or the prefix again. A file is checked before anything of it
is used: format, model, shapes, length. Nothing is ever unpickled.
"""

from __future__ import annotations

import os
import re
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from libertai_engine.errors import SlotFileError
from libertai_engine.model.kv_cache import KVPrefix

FORMAT = "libertai-slot-1"
MAX_HEADER_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class SlotFile:
    """A slot file's size, in tokens and bytes."""

    num_tokens: int
    num_bytes: int


def write_slot_file(
    path: Path, token_ids: list[int], prefix: KVPrefix, fingerprint: str
) -> SlotFile:
    """Write a lane; an existing file is replaced in one step. Raises `SlotFileError`."""
    tensors = {"token_ids": torch.tensor(token_ids, dtype=torch.long)}
    tensors |= {f"keys.{index}": keys.contiguous() for index, keys in enumerate(prefix.keys)}
    tensors |= {f"values.{index}": each.contiguous() for index, each in enumerate(prefix.values)}
    about = {"format": FORMAT, "model": fingerprint}
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".slot-")
        os.close(handle)
        try:
            save_file(tensors, name, metadata=about)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
        return SlotFile(len(token_ids), path.stat().st_size)
    except (OSError, SafetensorError) as error:
        raise SlotFileError(
            f"Unable to save slot: {_why_not_written(error)}", field="filename"
        ) from error


def read_slot_file(
    path: Path, fingerprint: str, context_size: int
) -> tuple[list[int], KVPrefix, SlotFile]:
    """The tokens and the lane in a file. Raises `SlotFileError` unless all of it fits."""
    try:
        _check_header(path)
        with safe_open(str(path), framework="pt") as file:
            _check_origin(file.metadata() or {}, fingerprint)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        token_ids, prefix = _assemble(tensors)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise SlotFileError(
            f"Unable to restore slot: {_reason(error)}", field="filename"
        ) from error
    if len(token_ids) >= context_size:
        raise SlotFileError(
            "Unable to restore slot: it is longer than the context", field="filename"
        )
    return token_ids, prefix, SlotFile(len(token_ids), path.stat().st_size)


def _check_header(path: Path) -> None:
    """A header that claims to be longer than the file must not make anyone allocate it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
    if len(first) < 8 or struct.unpack("<Q", first)[0] > min(size, MAX_HEADER_BYTES):
        raise ValueError("not a slot file")


def _check_origin(metadata: dict[str, str], fingerprint: str) -> None:
    if metadata.get("format") != FORMAT:
        raise ValueError("not a slot file")
    if metadata.get("model") != fingerprint:
        raise ValueError("it belongs to another model")


def _assemble(tensors: dict[str, torch.Tensor]) -> tuple[list[int], KVPrefix]:
    num_layers = (len(tensors) - 1) // 2
    ids = tensors["token_ids"]
    if (ids.ndim, ids.dtype, len(tensors)) != (1, torch.long, 1 + 2 * num_layers):
        raise ValueError("not a slot file")
    token_ids: list[int] = ids.tolist()
    keys = tuple(tensors[f"keys.{index}"] for index in range(num_layers))
    values = tuple(tensors[f"values.{index}"] for index in range(num_layers))
    if any(lane.ndim != 3 or lane.shape[1] != len(token_ids) for lane in (*keys, *values)):
        raise ValueError("the lanes are not as long as the tokens")
    return token_ids, KVPrefix(keys, values, len(token_ids))


def _why_not_written(error: Exception) -> str:
    """The same for writing; safetensors tells the system's reason as a number in its text."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    if isinstance(error, SafetensorError):
        return os.strerror(int(number[1])) if number else "it cannot be written"
    return _reason(error)


def _reason(error: Exception) -> str:
    """Why, without a path: the message goes to whoever sent the request."""
    if isinstance(error, OSError):
        return error.strerror or "input/output error"
    return str(error) if type(error) is ValueError else "not a slot file"
