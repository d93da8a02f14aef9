"""Saving a quantized model as a folder that loads like any other.

In: a `LoadedModel` with int8 or int4 weights in their own order. Out: a folder with config.json,
quantized.safetensors, tokenizer, chat template and generation settings, as `quantized_file.py`
reads them.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from libertai_engine.errors import ModelLoadError
from libertai_engine.model.loader import LoadedModel
from libertai_engine.model.quantization import Quantization
from libertai_engine.model.quantized import QuantizedEmbedding, QuantizedLinear
from libertai_engine.model.quantized_file import CODES, SCALE, Entry
from libertai_engine.model.source import QUANTIZED_FILE
from libertai_engine.model.vision import Vision


def save(model: LoadedModel, folder: Path) -> int:
    """Write the model to `folder`, which must be new or empty; returns the bytes of its weights.

    The folder is there when it is complete, or not at all. Raises `ModelLoadError`.
    """
    quantization = model.quantization
    assert quantization is not None, "nothing is quantized"
    check_target(folder)
    folder = folder.resolve()  # "." has no name
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        _write(model, quantization, part)
        size = (part / QUANTIZED_FILE).stat().st_size
        if folder.is_dir():
            folder.rmdir()
        part.rename(folder)
    except OSError as error:
        raise ModelLoadError(f"cannot write {folder}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return size


def check_target(folder: Path) -> None:
    """Raise `ModelLoadError` unless a model can be written there without replacing anything."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelLoadError(f"{folder} exists already, and is not empty")


def _write(model: LoadedModel, quantization: Quantization, folder: Path) -> None:
    shared = _shared(model.module)
    entry = Entry(
        precision=quantization.precision, shared=shared, quality=quantization.quality
    ).to_json()
    config = json.loads(model.config.to_json_string())
    config.pop("_name_or_path", None)
    config |= {"dtype": "bfloat16", "quantization_config": entry}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(_tensors(model.module, shared), folder / QUANTIZED_FILE, metadata={"format": "pt"})
    if model.module.generation_config is not None:
        text = model.module.generation_config.to_json_string()
        (folder / "generation_config.json").write_text(text, encoding="utf-8")
    model.tokenizer.save_pretrained(folder)
    if isinstance(model.vision, Vision):
        model.vision.save(folder)


def _shared(module: nn.Module) -> dict[str, str]:
    """Each quantized layer that has the weights of an earlier one, to that one."""
    owners: dict[int, str] = {}
    shared: dict[str, str] = {}
    for name, part in module.named_modules():
        if isinstance(part, QuantizedLinear | QuantizedEmbedding):
            assert part.weights.kind == "int8" or not part.weights.is_reordered
            owner = owners.setdefault(id(part.weights), name)
            if owner != name:
                shared[name] = owner
    return shared


def _tensors(module: nn.Module, shared: dict[str, str]) -> dict[str, Tensor]:
    """What the file holds, every tensor once."""
    left_out = {layer + suffix for layer in shared for suffix in (CODES, SCALE)}
    state: dict[str, Tensor] = module.state_dict()
    return {
        name: tensor.cpu().contiguous() for name, tensor in state.items() if name not in left_out
    }
