"""Is a native step the same as the module's own? Found out on a few tokens, before it serves.

In: a module that has begun, its parts, the native library. Out: nothing, or `NotLean` with what
differs. The module itself tells whether weights are read rightly, but its rounding hides a scale
that is a few per cent off. That is seen in a twin (`lean_twin`) whose numbers are fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from libertai_engine.kernels.library import Library
from libertai_engine.model.attention import Manner
from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.decoder_parts import DecoderParts, take_apart
from libertai_engine.model.decoder_questions import NotLean
from libertai_engine.model.kv_cache import KVCache
from libertai_engine.model.lean import LeanDecoder
from libertai_engine.model.lean_twin import twin_of
from libertai_engine.model.packing import pack
from libertai_engine.model.shift import Evaluate

CONTEXT = 32
PREFILL = (Row(1, 0, tuple(range(1, 13)), 1), Row(3, 0, (5, 3, 8, 2, 9), 1))
STEPS = (
    (Row(3, 5, (4,), 1), Row(1, 12, (7,), 1)),
    (Row(1, 13, (2, 6, 1), 3), Row(0, 0, (9, 8, 7, 6), 2), Row(3, 6, (3,), 1)),
    (Row(0, 4, (5, 4, 3, 2, 1, 2, 3, 4, 5, 6), 1),),
)
"""Two prefills by the module; then decode next to decode, to drafts and to prefill."""

CLAIMS = (
    *("activation", "epsilon", "head_epsilon", "frequencies", "rotary_scale", "score_scale"),
    *("residual_scale", "embedding_scale", "logit_scale"),
)
"""Parts that are no weights, so that a twin has them in common with its module."""

SHARP = 1e-4
"""Largest relative difference between two ways to a twin's numbers; 1e-6 is usual."""


@dataclass(frozen=True, slots=True, eq=False)
class Begun:
    """A module, lanes that it has filled with `PREFILL`, and how each of its layers attended.

    Invariant: nothing else was written to the lanes, so that it serves one proof.
    """

    module: PreTrainedModel
    cache: KVCache
    manners: tuple[Manner, ...]


def begin(module: PreTrainedModel, evaluate: Evaluate) -> Begun:
    """Let a module evaluate `PREFILL`."""
    packed, cache = pack(Batch(PREFILL), module.device), KVCache(num_slots=4, context_size=CONTEXT)
    evaluate(module, cache, packed)
    return Begun(module, cache, tuple(each for each in packed.attended if isinstance(each, Manner)))


def prove(begun: Begun, library: Library, parts: DecoderParts, evaluate: Evaluate) -> None:
    """Raise `NotLean` unless native steps are the module's, and their scales exactly its own."""
    compare(begun, library, parts, evaluate, tolerance(parts))
    twin = begin(twin_of(begun.module, parts), evaluate)
    own = take_apart(twin.module, twin.manners, CONTEXT)
    claimed = replace(own, **{name: getattr(parts, name) for name in CLAIMS})
    compare(twin, library, claimed, evaluate, SHARP)


def compare(
    begun: Begun, library: Library, parts: DecoderParts, evaluate: Evaluate, largest: float
) -> None:
    """Raise `NotLean` unless logits and lanes agree with the module's after every step."""
    module, expected = begun.module, begun.cache
    lanes = [(keys.clone(), values.clone()) for keys, values in expected.lanes]
    decoder = LeanDecoder(library, parts, lanes)
    for rows in STEPS:
        logits = evaluate(module, expected, pack(Batch(rows), module.device)).float()
        _compare("logits", decoder.run(Batch(rows)), logits, largest)
        for layer, pairs in enumerate(zip(lanes, expected.lanes, strict=True)):
            for ours, theirs in zip(*pairs, strict=True):
                _compare(f"lanes of layer {layer}", *_written(ours, theirs, rows), largest)


def _written(ours: Tensor, theirs: Tensor, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """What a step has written into two sets of lanes, `[heads and positions, head_dim]`."""
    size = ours.shape[-1]
    both = (
        torch.cat([lanes[row.slot, :, row.start : row.end].reshape(-1, size) for row in rows])
        for lanes in (ours, theirs)
    )
    ours, theirs = both
    return ours.float(), theirs.float()


def _compare(what: str, ours: Tensor, theirs: Tensor, largest: float) -> None:
    apart = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-6))
    if not apart <= largest:  # NOTE: so that NaN is refused
        raise NotLean(f"{what} that differ from the module's by {apart:.2g}")


def tolerance(parts: DecoderParts) -> float:
    """Largest relative difference that rounding may make.

    fp32 sums in another order stay below 1e-5. bf16 modules round after every operation and
    the native step does not: 1e-2 is usual. Quantised activations are rounded in other places.
    """
    kinds = {matrix.kind for layer in parts.layers for matrix in (layer.q, layer.down)}
    if kinds == {"fp32"}:
        return 1e-3
    return 0.05 if kinds == {"bf16"} else 0.2
