"""The structs of `kernels/source/decoder.h`, field by field.

In: `DecoderParts`, lanes. Out: ctypes structs that name their memory; whoever makes one keeps what
it was made from.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from torch import Tensor

from libertai_engine.kernels.matrix import MatrixStruct
from libertai_engine.model.decoder_parts import DecoderParts, LayerParts

_MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
_GAINS = ("norm_in", "norm_mid", "q_gain", "k_gain")
_SIZES = ("layers", "hidden", "heads", "kv_heads", "head_dim", "rotary_dim", "inner", "activation")
_FACTORS = (
    "epsilon",
    "head_epsilon",
    "score_scale",
    "residual_scale",
    "logit_scale",
    "rotary_scale",
    "embedding_scale",
)


class LayerStruct(ctypes.Structure):
    """`DecoderLayer`."""

    _fields_ = [
        *((name, MatrixStruct) for name in _MATRICES),
        *((name, ctypes.c_void_p) for name in _GAINS),
        ("rotates", ctypes.c_int32),
        ("window", ctypes.c_int32),
    ]


class ShapeStruct(ctypes.Structure):
    """`DecoderShape`."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in (*_SIZES, "max_tokens")),
        *((name, ctypes.c_float) for name in _FACTORS),
        ("frequencies", ctypes.c_void_p),
        ("norm_out", ctypes.c_void_p),
        ("head", MatrixStruct),
        ("embedding", MatrixStruct),
        ("layer", ctypes.POINTER(LayerStruct)),
    ]


class LanesStruct(ctypes.Structure):
    """`Lanes`."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("is_bf16", "slot_stride", "head_stride")),
        ("keys", ctypes.POINTER(ctypes.c_void_p)),
        ("values", ctypes.POINTER(ctypes.c_void_p)),
    ]


class StepStruct(ctypes.Structure):
    """`DecoderStep`."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("tokens", "runs", "wanted", "threads")),
        *((name, ctypes.c_void_p) for name in ("ids", "run", "kept", "embedded", "logits")),
    ]


def shape_struct(parts: DecoderParts, max_tokens: int) -> ShapeStruct:
    """Sizes, factors and weights of a decoder."""
    layers = (LayerStruct * len(parts.layers))(*map(_layer_struct, parts.layers))
    sizes = {
        "layers": len(parts.layers),
        "hidden": parts.hidden,
        "heads": parts.heads,
        "kv_heads": parts.kv_heads,
        "head_dim": parts.head_dim,
        "rotary_dim": 2 * parts.frequencies.numel(),
        "inner": parts.layers[0].gate.rows,
        "activation": parts.activation,
    }
    table = MatrixStruct() if parts.table is None else parts.table.struct
    return ShapeStruct(
        *sizes.values(),
        max_tokens,
        *(getattr(parts, name) for name in _FACTORS),
        parts.frequencies.data_ptr(),
        parts.norm_out.data_ptr(),
        parts.head.struct,
        table,
        layers,
    )


def _layer_struct(layer: LayerParts) -> LayerStruct:
    gains = (getattr(layer, name) for name in _GAINS)
    return LayerStruct(
        *(getattr(layer, name).struct for name in _MATRICES),
        *(None if gain is None else gain.data_ptr() for gain in gains),
        int(layer.rotates),
        layer.window,
    )


def lanes_struct(keys: Sequence[Tensor], values: Sequence[Tensor], *, is_bf16: bool) -> LanesStruct:
    """Lanes `[slot, kv_head, position, head_dim]` of each layer, all of one shape and type."""
    pointers = ctypes.c_void_p * len(keys)
    return LanesStruct(
        int(is_bf16),
        keys[0].stride(0),
        keys[0].stride(1),
        pointers(*(each.data_ptr() for each in keys)),
        pointers(*(each.data_ptr() for each in values)),
    )
