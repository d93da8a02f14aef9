"""The call of native attention over one lane.

In: queries, keys and values of one row. Out: what the queries see.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from libertai_engine.errors import GenerationFailed
from libertai_engine.kernels.library import Library
from libertai_engine.kernels.matrix import DENSE

MAX_HEAD_DIM = 512


class _Attention(ctypes.Structure):
    """`struct Attention` of `source/attend.cpp`."""

    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in (
                *("is_bf16", "heads", "kv_heads", "head_dim"),
                *("count", "start", "window", "threads"),
            )
        ),
        ("query", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("query_head", "query_token")),
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
        *((name, ctypes.c_int64) for name in ("key_head", "value_head")),
        ("out", ctypes.c_void_p),
        ("scale", ctypes.c_double),
    ]


def can_attend(query: Tensor, keys: Tensor, values: Tensor) -> bool:
    """True for heads and types that the native code reads."""
    heads, _, head_dim = query.shape
    return (
        query.device.type == "cpu"
        and query.dtype in DENSE
        and query.dtype == keys.dtype == values.dtype
        and keys.shape[-1] == values.shape[-1] == head_dim <= MAX_HEAD_DIM
        and heads % keys.shape[0] == 0
        and query.stride(-1) == 1
        and keys.stride()[1:] == values.stride()[1:] == (head_dim, 1)
    )


def attend(
    library: Library, query: Tensor, keys: Tensor, values: Tensor, *, scale: float, window: int
) -> Tensor:
    """Causal attention of the last n of m positions: `[n, head, head_dim]`.

    `query` `[head, n, head_dim]`, `keys` and `values` `[kv_head, m, head_dim]`, all such that
    `can_attend`. A query sees `window` positions, itself included; 0 means all. Raises
    `GenerationFailed` if memory runs out.
    """
    heads, count, head_dim = query.shape
    out = query.new_empty(count, heads, head_dim)
    what = _Attention(
        *(query.dtype == torch.bfloat16, heads, keys.shape[0], head_dim),
        *(count, keys.shape[1] - count, window, torch.get_num_threads()),
        *(query.data_ptr(), query.stride(0), query.stride(1)),
        *(keys.data_ptr(), values.data_ptr(), keys.stride(0), values.stride(0)),
        *(out.data_ptr(), scale),
    )
    if library.handle.libertai_attend(ctypes.byref(what)):
        raise GenerationFailed("no memory for attention")
    return out
