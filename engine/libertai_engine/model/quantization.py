"""A model's matrices become int8 or int4, one after the other.

In: a transformers model in bf16. Out: the same module with layers of ours in the place of its
linear layers and its embeddings, and a `Quantization` that tells what became of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from libertai_engine.config import Precision
from libertai_engine.errors import ModelLoadError
from libertai_engine.kernels.library import Library
from libertai_engine.kernels.packing import pack_int4, pack_int8
from libertai_engine.model.large_pages import move_to_large_pages
from libertai_engine.model.memory import MappedFiles, give_memory_back, mapped_files
from libertai_engine.model.parts import language_model
from libertai_engine.model.quality import BOUNDS, Quality
from libertai_engine.model.quantized import (
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedMatrix,
)
from libertai_engine.model.rounding import round_to_int4, round_to_int8

# What decides which expert sees a token: tiny, and a small error sends a token elsewhere.
_ROUTERS = ("gate", "router", "shared_expert_gate")
_LARGE = 1 << 20  # numbers of a matrix that is worth a call of the system
_MIN_ROWS = 8  # fewer are no matrix that is worth it


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """What became of a model. Sizes in bytes, of all its weights.

    `bytes_before` is what they take in bf16; `bytes_kept`, a part of `bytes_after`, is what is no
    matrix of `num_matrices`. `quality` is None if it was not measured.
    """

    precision: Precision
    num_matrices: int
    bytes_before: int
    bytes_after: int
    bytes_kept: int
    quality: Quality | None

    @property
    def sizes(self) -> str:
        """In a line."""
        before, after, kept = (
            f"{size / 2**20:,.1f}"
            for size in (self.bytes_before, self.bytes_after, self.bytes_kept)
        )
        return f"{before} -> {after} MiB of weights, {kept} of them not quantized"

    @property
    def is_within_bounds(self) -> bool:
        """False if the perplexity is known to have risen by more than `BOUNDS` says."""
        return self.quality is None or self.quality.rise <= BOUNDS[self.precision]


@torch.no_grad()
def quantize(module: PreTrainedModel, precision: Precision, *, progress: bool) -> None:
    """Put quantized layers in the place of the language model's; each is freed when replaced.

    Pages of a file, too, which weights may lie in.

    Head and input embeddings have 8 bits in either case; tied ones stay tied. What stays as it is:
    norms, vision towers, routers, and experts that are no linear layers. Raises `ModelLoadError`
    for weights that are not finite.
    """
    bytes_before = count_bytes(module)
    head_name = name_of(module, module.get_output_embeddings())
    files = mapped_files()
    shared = _quantize_embedding(module, files)
    if head_name is not None and shared is not None:
        replace_linear(module, (head_name,), shared)
    found = places(module)
    for names in tqdm(found, f"to {precision}", unit=" matrices", disable=not progress):
        kind: Precision = "int8" if names[0] == head_name else precision
        weight = matrix_of(module.get_submodule(names[0]))
        replace_linear(module, names, _quantized(names[0], weight, kind))
        files.forget(weight)
        if weight.numel() >= _LARGE:
            give_memory_back()
    _leave_file(module, bytes_before)


def _leave_file(module: nn.Module, bytes_before: int) -> None:
    """Copy the few weights that are left, if they are few.

    NOTE: they may lie in a mapped file, all of which then stays in memory.
    """
    if 4 * count_kept_bytes(module) < bytes_before:
        for each in module.parameters():
            each.data = each.data.clone()


def _quantized(name: str, weight: Tensor, precision: Precision) -> QuantizedMatrix:
    if not torch.isfinite(weight).all():
        raise ModelLoadError(f"`{name}` holds NaN or infinity: broken weights")
    if precision == "int8":
        rounded = round_to_int8(weight)
        return QuantizedMatrix(pack_int8(rounded.codes, rounded.scale))
    rounded = round_to_int4(weight)
    return QuantizedMatrix(pack_int4(rounded.codes, rounded.scale))


def _quantize_embedding(module: PreTrainedModel, files: MappedFiles) -> QuantizedMatrix | None:
    """Replace the input embeddings; their matrix, if the head is to have the same."""
    old, head = module.get_input_embeddings(), module.get_output_embeddings()
    name = name_of(module, old)
    if name is None or not can_replace_embedding(old):
        return None
    matrix = _quantized(name, old.weight, "int8")
    module.set_submodule(name, QuantizedEmbedding(matrix, factor_of(old), old.weight.dtype))
    files.forget(old.weight)
    return matrix if getattr(head, "weight", None) is old.weight else None


def can_replace_embedding(old: nn.Module) -> bool:
    """True for plain embeddings, and for those that multiply what they look up by one factor."""
    if type(old) is nn.Embedding:
        return True
    factor = factor_of(old)
    if not isinstance(old, nn.Embedding) or factor is None:
        return False
    ids = torch.arange(min(4, old.num_embeddings), device=old.weight.device)
    return torch.equal(old(ids), old.weight[ids] * factor)


def factor_of(embedding: Any) -> Tensor | None:
    """What the Gemma models multiply their embeddings by, in the type of these."""
    factor = getattr(embedding, "embed_scale", None)
    if factor is None:
        return None
    weight: Tensor = embedding.weight
    device = factor.device if isinstance(factor, Tensor) else weight.device
    return torch.as_tensor(factor, dtype=torch.float32).to(device, weight.dtype)


def places(module: PreTrainedModel) -> list[tuple[str, ...]]:
    """The names of each linear layer that is to be replaced: usually one."""
    parts = set(language_model(module).modules()) | {module.get_output_embeddings()}
    found: dict[int, list[str]] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        if part in parts and _is_matrix(name, part):
            found.setdefault(id(part), []).append(name)
    return [tuple(names) for names in found.values()]


def _is_matrix(name: str, part: nn.Module) -> bool:
    # NOTE: a layer of a class of its own may do more than multiply.
    is_linear = type(part) in (nn.Linear, Conv1D)
    is_router = name.rpartition(".")[2] in _ROUTERS
    return is_linear and not is_router and matrix_of(part).shape[0] >= _MIN_ROWS


def matrix_of(part: Any) -> Tensor:
    """Weights `[rows, cols]` of a linear layer, however it keeps them."""
    weight: Tensor = part.weight
    return weight.t() if isinstance(part, Conv1D) else weight


def replace_linear(module: PreTrainedModel, names: Sequence[str], matrix: QuantizedMatrix) -> None:
    """Put a layer with these weights, and the old one's bias, in the place of a linear layer."""
    new = QuantizedLinear(matrix, module.get_submodule(names[0]).bias)
    for name in names:
        module.set_submodule(name, new)


def name_of(module: nn.Module, part: nn.Module | None) -> str | None:
    """The first name under which a part is found."""
    return next((name for name, each in module.named_modules() if each is part), None)


def settle(module: nn.Module, library: Library | None, *, keeps_order: bool = False) -> None:
    """Tell every quantized layer who multiplies; to be called when they are where they stay.

    Without a library, torch's kernels want other orders of some weights, unless that is forbidden.
    """
    if library is not None:
        move_to_large_pages(module)
    for part in module.modules():
        if isinstance(part, QuantizedLinear) and not (keeps_order and library is None):
            part.settle(library)


def matrices(module: nn.Module) -> list[QuantizedMatrix]:
    """All quantized matrices, shared ones once."""
    return [part for part in module.modules() if isinstance(part, QuantizedMatrix)]


def count_parameters(module: nn.Module) -> int:
    """Numbers that the model has learned, in however many bits."""
    dense = sum(each.numel() for each in module.parameters())
    return dense + sum(each.rows * each.cols for each in matrices(module))


def count_bytes(module: nn.Module) -> int:
    """What the weights take in memory."""
    quantized = sum(each.nbytes for each in matrices(module))
    return count_kept_bytes(module) + quantized


def count_kept_bytes(module: nn.Module) -> int:
    """What the weights take that are in no quantized matrix."""
    return sum(each.nbytes for each in module.parameters())
