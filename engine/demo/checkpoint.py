"""The state of a training run on disk. In: model, optimizers, history. Out: state.safetensors.

It is written under another name first and then renamed: a kill leaves a whole state behind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

Optimizers = Mapping[str, torch.optim.Optimizer]


def _places(model: torch.nn.Module, optimizers: Optimizers) -> dict[str, tuple[Any, Any]]:
    """Return, for `optimizer/parameter`, where the state of that parameter lives."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{kind}/{names[id(parameter)]}": (optimizer, parameter)
        for kind, optimizer in optimizers.items()
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def save_state(
    folder: Path,
    model: torch.nn.Module,
    optimizers: Optimizers,
    identity: Mapping[str, Any],
    history: Mapping[str, Any],
) -> None:
    """Write the whole state; `identity` says which recipe and corpus it belongs to."""
    tensors = {f"model/{name}": value.detach() for name, value in model.named_parameters()}
    for place, (optimizer, parameter) in _places(model, optimizers).items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{place}/{key}"] = value
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / "state.new"
    metadata = {"identity": json.dumps(identity), "history": json.dumps(history)}
    save_file(tensors, new, metadata=metadata)
    new.replace(folder / "state.safetensors")


def load_state(
    folder: Path,
    model: torch.nn.Module,
    optimizers: Optimizers,
    identity: Mapping[str, Any],
    *,
    changed: bool = False,
) -> dict[str, Any] | None:
    """Put the state on disk into model and optimizers; return its history, or None without a state.

    Raises ValueError when the state belongs to another recipe or corpus, unless `changed`.
    """
    path = folder / "state.safetensors"
    if not path.exists():
        return None
    metadata = _read_metadata(path)
    if not changed and metadata["identity"] != json.loads(json.dumps(identity)):
        raise ValueError(f"{path} belongs to another recipe or text; choose another --run folder")
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model/{name}"])
    places = _places(model, optimizers)
    for name, value in tensors.items():
        place, _, key = name.rpartition("/")
        if place in places:
            optimizer, parameter = places[place]
            optimizer.state[parameter][key] = value
    history: dict[str, Any] = metadata["history"]
    return history


def _read_metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as opened:
        return {key: json.loads(value) for key, value in opened.metadata().items()}
