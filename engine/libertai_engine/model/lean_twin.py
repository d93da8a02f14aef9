"""A small fp32 twin of a decoder: its first layers, with weights made up, and all else its own.

In: a module. Out: a copy that does with numbers what the module does, but that rounding does not
blur, so that a scale which is a little off shows. Nothing of the module's matrices is copied.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from libertai_engine.model.decoder_parts import (
    FUSED_INNER,
    INNER,
    DecoderParts,
    matrices_of,
    matrix_of,
)

LAYERS = 4  # at most: where layers differ, as in what they know of positions, they take turns
VOCAB = 16
INNER_SIZE = 48


def twin_of(module: PreTrainedModel, parts: DecoderParts) -> PreTrainedModel:
    """The twin of a module with these parts, on the CPU. Token ids are below `VOCAB`.

    Vectors of even ids are so small that the norms' epsilon counts, those of the others about as
    large as what a block adds, so that all scales do.
    """
    decoder, output = module.get_decoder(), module.get_output_embeddings()
    memo: dict[int, Any] = {id(each): nn.Identity() for each in _others(module, decoder, output)}
    layers = list(decoder.layers)[:LAYERS]
    for layer in layers:
        for name, part in matrices_of(layer):
            memo |= _smaller(part, name)
    memo |= _smaller(output, "head") | _smaller_table(decoder.embed_tokens, memo)
    memo |= _vectors(module, memo)
    memo[id(decoder.layers)] = nn.ModuleList(copy.deepcopy(each, memo) for each in layers)
    twin: PreTrainedModel = copy.deepcopy(module, memo).float()
    _make_up(twin, parts)
    return twin


def _others(owner: nn.Module, *needed: nn.Module) -> Iterator[nn.Module]:
    """What stands beside the language model, such as a vision tower."""
    for child in owner.children():
        if any(child is each for each in needed):
            continue
        if any(part is each for part in child.modules() for each in needed):
            yield from _others(child, *needed)
        else:
            yield child


def _smaller(part: Any, name: str) -> dict[int, Any]:
    """What stands for a linear layer, or for its tensors, in a copy; numbers come later."""
    matrix = matrix_of(part)
    rows, cols = matrix.rows, matrix.cols
    if name in INNER:
        rows = INNER_SIZE
    elif name in FUSED_INNER:
        rows = 2 * INNER_SIZE
    elif name == "head":
        rows = VOCAB
    elif name == "down_proj":
        cols = INNER_SIZE
    new = nn.Linear(cols, rows, bias=part.bias is not None, device="meta").to_empty(device="cpu")
    if type(part) is not nn.Linear:
        return {id(part): new}
    return {id(part.weight): new.weight} | ({} if part.bias is None else {id(part.bias): new.bias})


def _smaller_table(embed: Any, memo: dict[int, Any]) -> dict[int, Any]:
    """The same for an embedding; a head's weights may be its own."""
    new = nn.Embedding(VOCAB, embed.embedding_dim)
    if not isinstance(embed, nn.Embedding):
        return {id(embed): new}
    return {id(embed.weight): memo.get(id(embed.weight), new.weight)}


def _vectors(module: PreTrainedModel, memo: dict[int, Any]) -> dict[int, Any]:
    """Copies of gains, biases and frequencies.

    NOTE: copied by `deepcopy`, each would bring along all of the memory that it lies in: where
    weights are in one piece, all weights.
    """
    tensors = (*module.parameters(), *module.buffers())
    vectors = (each for each in tensors if each.ndim <= 1 and id(each) not in memo)
    return {id(each): _own(each) for each in vectors}


def _own(vector: Tensor) -> Tensor:
    copied = vector.detach().clone()
    if isinstance(vector, nn.Parameter):
        return nn.Parameter(copied, vector.requires_grad)
    return copied


@torch.no_grad()
def _make_up(twin: PreTrainedModel, parts: DecoderParts) -> None:
    """Numbers for all weights, the same for every twin of these shapes."""
    random = torch.Generator().manual_seed(0)
    for each in twin.parameters():
        if each.ndim == 1:
            each.uniform_(0.5, 1.5, generator=random)
        else:
            each.uniform_(-1, 1, generator=random).mul_((3 / each.shape[-1]) ** 0.5)
    embed: Any = twin.get_input_embeddings()
    embed.padding_idx = None  # NOTE: it may be an id that the twin does not have
    ids = torch.arange(VOCAB)
    found: Tensor = parts.embedding_scale * embed(ids).square().mean(-1).sqrt()  # [VOCAB]
    wanted = torch.where(ids % 2 == 0, parts.epsilon**0.5, 2 * parts.residual_scale)
    embed.weight.mul_((wanted / found)[:, None])
