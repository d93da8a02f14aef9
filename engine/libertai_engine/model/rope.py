"""Rotary frequencies that hang on the sequence length, settled once for one context size.

In: a transformers model and the context size of a slot. Out: the same model, whose rotation of a
token depends on its position only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from transformers import PreTrainedModel

from libertai_engine.errors import InvalidRequest
from libertai_engine.model.parts import language_model

_SETTLED = "settled"


class _Rotary(Protocol):
    """transformers' rotary embedding: one `rope_type`, or one for each layer type."""

    rope_type: str | dict[str, str]

    def __call__(self, x: torch.Tensor, position_ids: torch.Tensor, **layer: str) -> object: ...


def settle_rope(module: PreTrainedModel, context_size: int) -> None:
    """Give every position the frequencies of a sequence that fills the context.

    Dynamic NTK and LongRoPE choose frequencies by the longest sequence in the forward pass. With
    many rows in a pass, and keys kept from earlier passes, one request would then turn another's
    queries. So transformers computes the frequencies for `context_size` tokens here, and is
    stopped from changing them. A context within the trained length keeps the trained ones.
    """
    last = torch.tensor([[context_size - 1]], device=module.device)
    x = torch.zeros(1, device=module.device, dtype=module.dtype)
    for rotary in rotaries(module):
        if isinstance(rotary.rope_type, str):
            if _follows_length(rotary.rope_type):
                rotary(x, last)
                rotary.rope_type = _SETTLED
        else:
            for layer_type, rope_type in rotary.rope_type.items():
                if _follows_length(rope_type):
                    rotary(x, last, layer_type=layer_type)
                    rotary.rope_type = rotary.rope_type | {layer_type: _SETTLED}


def check_context(module: PreTrainedModel, context_size: int) -> None:
    """Raise `InvalidRequest` if the model has a learned position table shorter than the context."""
    config = module.config.get_text_config()
    table = getattr(config, "max_position_embeddings", None)
    buffers = language_model(module).named_buffers()
    is_rotary = any(name.endswith("inv_freq") for name, _ in buffers)
    if table is not None and context_size > table and not is_rotary:
        raise InvalidRequest(
            f"`context_size` {context_size} is more than the {table} positions this model knows",
            field="context_size",
        )


def _follows_length(rope_type: str) -> bool:
    return "dynamic" in rope_type or rope_type == "longrope"


def rotaries(module: PreTrainedModel) -> Iterator[_Rotary]:
    """Every rotary embedding in a language model; usually one."""
    for part in language_model(module).modules():
        if isinstance(getattr(part, "rope_type", None), str | dict):
            yield part
