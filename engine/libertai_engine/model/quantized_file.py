"""Quantized models on disk: what their config.json says of it, and how they are read.

In: a folder that `quantized_folder.save` wrote. Out: the very module that was saved; its weights
are the mapped file itself until they are touched.

Such a folder is one of transformers but for the name of its weights, quantized.safetensors (under
the usual one, transformers would take random numbers for what it does not find), for
`quantization_config` in its config.json

    {"quant_method": "libertai", "version": 1, "precision": "int4", "group_size": 32,
     "shared": {"lm_head": "model.embed_tokens"},
     "quality": {"before": 9.1, "after": 9.3, "divergence": 0.02, "num_tokens": 511}}

and for the tensors of layers that are quantized. Instead of `NAME.weight` there are

    NAME.weights.codes   int8 [rows, cols], or
                         uint8 [ceil(rows / 16), ceil(cols / 32), 256]: of row 16 b + r and column
                         32 g + 8 j + q, the code plus 8 is in the low half of byte 64 j + 4 r + q
                         of block [b, g], and that of column 32 g + 8 j + 4 + q in its high half
    NAME.weights.scale   float32 [rows], or float16 [ceil(rows / 16), ceil(cols / 32), 16]

and a weight is its code times its scale: of its row, or of its row and 32 columns. Layers that are
named in `shared` have none, but those of another layer. `quality` is null if it was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from libertai_engine.config import PRECISIONS, Dtype, Precision
from libertai_engine.errors import ModelLoadError
from libertai_engine.kernels.packing import BLOCK, GROUP, Packed, PackedKind
from libertai_engine.model.loading import refuse_missing
from libertai_engine.model.quality import Quality
from libertai_engine.model.quantization import factor_of, matrix_of, replace_linear
from libertai_engine.model.quantized import QuantizedEmbedding, QuantizedMatrix
from libertai_engine.model.source import ModelSource, weight_files

METHOD = "libertai"
VERSION = 1
CODES, SCALE = ".weights.codes", ".weights.scale"
_KINDS: dict[torch.dtype, PackedKind] = {torch.int8: "int8", torch.uint8: "int4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """`quantization_config` of a folder of ours, checked. `shared` is layer to layer."""

    precision: Precision
    shared: Mapping[str, str]
    quality: Quality | None

    def to_json(self) -> dict[str, Any]:
        """As it stands in config.json."""
        quality = self.quality and {
            name: getattr(self.quality, name) for name in Quality.__dataclass_fields__
        }
        return {
            "quant_method": METHOD,
            "version": VERSION,
            "precision": self.precision,
            "group_size": GROUP,
            "shared": dict(self.shared),
            "quality": quality,
        }


def entry_of(source: ModelSource, config: PretrainedConfig) -> Entry | None:
    """What a folder says of its quantization; None if that is not ours. Raises `ModelLoadError`."""
    told = getattr(config, "quantization_config", None)
    if not isinstance(told, dict) or told.get("quant_method") != METHOD:
        return None

    def require(is_right: bool, field: str) -> None:
        if not is_right:
            where = f"config.json of `{source.name}`"
            raise ModelLoadError(
                f"{where}: `quantization_config.{field}` is missing or unknown: {told.get(field)!r}"
            )

    known = Entry(precision="int8", shared={}, quality=None).to_json()
    for field in told:
        require(field in known, field)
    shared, quality = told.get("shared"), told.get("quality")
    require(told.get("version") == VERSION, "version")
    require(told.get("precision") in PRECISIONS, "precision")
    require(told.get("group_size") == GROUP, "group_size")
    is_map = isinstance(shared, dict) and all(isinstance(each, str) for each in shared.values())
    require(is_map, "shared")
    require(quality is None or _is_quality(quality), "quality")
    return Entry(
        precision=told["precision"],
        shared=told["shared"],
        quality=None if quality is None else Quality(**quality),
    )


def _is_quality(told: Any) -> bool:
    names = set(Quality.__dataclass_fields__)
    if not isinstance(told, dict) or set(told) != names:
        return False
    numbers = [each for each in told.values() if type(each) in (int, float)]
    return len(numbers) == len(names) and all(map(math.isfinite, numbers)) and told["before"] > 0


def pick_precision(
    source: ModelSource, dtype: Dtype, config: PretrainedConfig, entry: Entry | None
) -> Precision | None:
    """The bits that weights are to have, None for those of a number format.

    Raises `ModelLoadError` if they have others already.
    """
    if entry is not None:
        if dtype not in ("auto", entry.precision):
            raise ModelLoadError(
                f"`{source.name}` is quantized to {entry.precision}: `dtype` must be that, or auto"
            )
        return entry.precision
    if dtype not in PRECISIONS:
        return None
    if getattr(config, "quantization_config", None) is not None:
        raise ModelLoadError(f"`{source.name}` is quantized already: `dtype` cannot be {dtype}")
    return dtype


def load(source: ModelSource, config: PretrainedConfig, kind: Any, entry: Entry) -> PreTrainedModel:
    """The module of a local folder, on the CPU; `kind` is transformers' auto class for it.

    Raises `ModelLoadError` that names the tensor which is missing, foreign or of another shape.
    """
    del config.quantization_config  # what belongs to the model is left
    # NOTE: buffers are computed, as they are in no file; only weights take no memory yet.
    with init_empty_weights(include_buffers=False):
        module: PreTrainedModel = kind.from_config(
            config, dtype=torch.bfloat16, trust_remote_code=False
        )
    tensors: dict[str, Tensor] = {}
    for path in weight_files(Path(source.place)):
        tensors |= load_file(path)
    _put_matrices(source, module, tensors)
    _share(source, module, entry.shared)
    _put_rest(source, module, tensors)
    if Path(source.place, "generation_config.json").is_file():
        module.generation_config = GenerationConfig.from_pretrained(source.place)
    return module.eval().requires_grad_(False)


def _put_matrices(source: ModelSource, module: PreTrainedModel, tensors: dict[str, Tensor]) -> None:
    """Put quantized layers where the file has them; their tensors are taken out of `tensors`."""
    for name in [name for name in tensors if name.endswith(CODES)]:
        layer = name.removesuffix(CODES)
        old = _part(source, module, layer)
        codes, scale = tensors.pop(name), tensors.pop(layer + SCALE, None)
        if scale is None:
            refuse_missing(source, [layer + SCALE])
        assert scale is not None
        _put(module, layer, old, _matrix(source, layer, old, codes, scale))


def _part(source: ModelSource, module: PreTrainedModel, layer: str) -> nn.Module:
    try:
        part: nn.Module = module.get_submodule(layer)
    except AttributeError:
        part = nn.Module()
    if type(part) not in (nn.Linear, Conv1D) and not isinstance(part, nn.Embedding):
        raise ModelLoadError(
            f"the weights of `{source.name}` have `{layer}`, where the model has no such layer"
        )
    return part


def _matrix(
    source: ModelSource, layer: str, old: nn.Module, codes: Tensor, scale: Tensor
) -> QuantizedMatrix:
    rows, cols = matrix_of(old).shape
    kind = _KINDS.get(codes.dtype)
    blocks = (-(-rows // BLOCK), -(-cols // GROUP))
    wanted = {
        "int8": (torch.int8, (rows, cols), torch.float32, (rows,)),
        "int4": (
            torch.uint8,
            (*blocks, BLOCK * GROUP // 2),
            torch.float16,
            (*blocks, BLOCK),
        ),
    }
    found = (codes.dtype, tuple(codes.shape), scale.dtype, tuple(scale.shape))
    if kind is None or found != wanted[kind]:
        raise ModelLoadError(
            f"the weights of `{source.name}`: `{layer}{CODES}` or `{layer}{SCALE}` do not belong "
            f"to a layer of {rows} x {cols}"
        )
    return QuantizedMatrix(Packed(kind, rows, cols, codes, scale))


def _put(module: PreTrainedModel, layer: str, old: nn.Module, matrix: QuantizedMatrix) -> None:
    if isinstance(old, nn.Embedding):
        new = QuantizedEmbedding(matrix, factor_of(old), old.weight.dtype)
        module.set_submodule(layer, new)
    else:
        replace_linear(module, [layer], matrix)


def _share(source: ModelSource, module: PreTrainedModel, shared: Mapping[str, str]) -> None:
    for layer, owner in shared.items():
        old = _part(source, module, layer)
        owned = dict(module.named_modules()).get(owner)
        matrix = getattr(owned, "weights", None)
        shape = tuple(matrix_of(old).shape)
        if not isinstance(matrix, QuantizedMatrix) or (matrix.rows, matrix.cols) != shape:
            raise ModelLoadError(
                f"config.json of `{source.name}`: `quantization_config.shared` gives `{layer}` the "
                f"weights of `{owner}`, which do not fit"
            )
        _put(module, layer, old, matrix)


def _put_rest(source: ModelSource, module: PreTrainedModel, tensors: dict[str, Tensor]) -> None:
    """Everything that is not quantized, as it is in the file."""
    wanted = {
        name: each
        for name, each in module.state_dict().items()
        if not name.endswith((CODES, SCALE))
    }
    refuse_missing(source, sorted(set(wanted) - set(tensors)))
    foreign = sorted(set(tensors) - set(wanted))
    odd = [
        name
        for name, each in wanted.items()
        if tensors[name].shape != each.shape
        or tensors[name].is_floating_point() != each.is_floating_point()
    ]
    if foreign or odd:
        raise ModelLoadError(
            f"the weights of `{source.name}`: `{(foreign or odd)[0]}` is not of this model"
        )
    module.load_state_dict(tensors, strict=False, assign=True)
