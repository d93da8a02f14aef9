"""Moving cached keys to earlier positions, found out by trying and not by the model's name.

In: a transformers model on slot lanes. Out: how its keys are turned when tokens before them leave
the context, or nothing if the model's positions cannot be moved. Values carry no position.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.kv_cache import KVCache
from libertai_engine.model.packing import PackedBatch, pack
from libertai_engine.model.rope import rotaries

Turn = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Evaluate = Callable[[PreTrainedModel, KVCache, PackedBatch], torch.Tensor]

_TOKENS = (1, 2, 3, 4, 5, 6)
_OFFSET = 7
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}


@dataclass(frozen=True, slots=True, eq=False)
class KeyShift:
    """A model's rotary embedding backwards.

    RoPE turns pairs of a key's entries by an angle that grows with the position (Su et al., 2021),
    so a key moves `count` positions down when its pairs are turned back by the angle of `count`.
    `turn` knows which entries are pairs.
    """

    turn: Turn
    angles: Callable[[int, int], tuple[torch.Tensor, torch.Tensor]]

    def __call__(self, keys: torch.Tensor, layer: int, count: int) -> torch.Tensor:
        """Keys `[kv_head, n, head_dim]` of one layer, `count` positions further down."""
        cos, sin = self.angles(layer, count)  # [rotary_dim]
        size = cos.shape[-1]
        turned = self.turn(keys[..., :size].float(), cos, sin).to(keys.dtype)
        return torch.cat((turned, keys[..., size:]), dim=-1)


def find_key_shift(module: PreTrainedModel, evaluate: Evaluate) -> KeyShift | None:
    """The key shift of a model, or None if its positions are not rotations that can be undone.

    The same tokens are evaluated at positions 0, 1, … and at 7, 8, …: with relative positions the
    logits agree, and turning the second keys back by 7 must give the first.
    """
    found = list(rotaries(module))
    if len(found) != 1:
        return None
    near, far = _run(module, evaluate, 0), _run(module, evaluate, _OFFSET)
    if not _agree(near[0], far[0], module.dtype):
        return None
    angles = _angles_of(module, found[0])
    for turn in (_turn_halves, _turn_pairs):
        shift = KeyShift(turn, angles)
        try:
            if _undoes(shift, near[1], far[1], module.dtype):
                return shift
        except (RuntimeError, TypeError, ValueError, AttributeError):
            continue  # this model's embedding has another form
    return None


def _run(
    module: PreTrainedModel, evaluate: Evaluate, offset: int
) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """Logits `[vocab]` and each layer's keys `[kv_head, n, head_dim]` with shifted positions."""
    cache = KVCache(num_slots=1, context_size=len(_TOKENS))
    packed = pack(Batch((Row(0, 0, _TOKENS, 1),)), module.device)
    packed = dataclasses.replace(packed, position_ids=packed.position_ids + offset)
    return evaluate(module, cache, packed)[0], cache.keys_of(0, len(_TOKENS))


def _undoes(
    shift: KeyShift,
    near: dict[int, torch.Tensor],
    far: dict[int, torch.Tensor],
    dtype: torch.dtype,
) -> bool:
    return all(_agree(near[layer], shift(far[layer], layer, _OFFSET), dtype) for layer in near)


def _agree(left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype) -> bool:
    difference = (left.float() - right.float()).norm() / left.float().norm().clamp_min(1e-6)
    return bool(difference < _TOLERANCE.get(dtype, 0.05))


def _angles_of(
    module: PreTrainedModel, rotary: Any
) -> Callable[[int, int], tuple[torch.Tensor, torch.Tensor]]:
    """Cosine and sine `[rotary_dim]` of a distance, as the model's own embedding has them."""
    layer_types: list[str] = getattr(module.config.get_text_config(), "layer_types", None) or []

    def angles(layer: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        # NOTE: taken in float32, because a model in bf16 rounds its angles.
        x = torch.zeros(1, device=module.device, dtype=torch.float32)
        position = torch.tensor([[count]], device=module.device)
        which = {"layer_type": layer_types[layer]} if isinstance(rotary.rope_type, dict) else {}
        cos, sin = rotary(x, position, **which)
        # Some scalings (YaRN) stretch queries and keys as well; the stretch is in the keys already.
        length = torch.sqrt(cos.square() + sin.square())
        return (cos / length)[0, 0], (sin / length)[0, 0]

    return angles


def _turn_halves(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Entry i and entry i + half are a pair (Llama and most others)."""
    first, second = keys.chunk(2, dim=-1)
    return keys * cos - torch.cat((-second, first), dim=-1) * sin


def _turn_pairs(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Neighbouring entries are a pair (GPT-J, Cohere, GLM)."""
    even, odd = keys[..., ::2], keys[..., 1::2]
    return keys * cos - torch.stack((-odd, even), dim=-1).flatten(-2) * sin
