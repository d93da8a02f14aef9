"""Weights as the native kernels see them.

In: torch tensors on the CPU. Out: a `Matrix`, whose struct holds their addresses.
"""

from __future__ import annotations

import ctypes
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["fp32", "bf16", "int8", "int4"]
KINDS: tuple[Kind, ...] = ("fp32", "bf16", "int8", "int4")  # in the order of `enum Kind`
DENSE: dict[torch.dtype, Kind] = {torch.float32: "fp32", torch.bfloat16: "bf16"}


class MatrixStruct(ctypes.Structure):
    """`struct Matrix` of `source/linear.h`. Invariant: it outlives none of the tensors it names."""

    _fields_ = [
        ("kind", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("cols", ctypes.c_int32),
        ("group", ctypes.c_int32),
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("extra", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    ]


class Matrix:
    """One layer's weights. Invariant: `struct` names the memory of tensors that are held here."""

    __slots__ = ("cols", "kind", "rows", "struct", "tensors")

    def __init__(
        self,
        kind: Kind,
        rows: int,
        cols: int,
        weight: Tensor,
        *,
        scale: Tensor | None = None,
        extra: Tensor | None = None,
        bias: Tensor | None = None,
        group: int = 0,
    ) -> None:
        self.kind = kind
        self.rows = rows
        self.cols = cols
        bias = None if bias is None else bias.detach().float()  # [rows]
        self.tensors = {"weight": weight, "scale": scale, "extra": extra, "bias": bias}
        places = {name: _address(tensor) for name, tensor in self.tensors.items()}
        self.struct = MatrixStruct(KINDS.index(kind), rows, cols, group, **places)


def dense(weight: Tensor, bias: Tensor | None = None) -> Matrix:
    """fp32 or bf16 weights [rows, cols] where they are: nothing is copied but the bias."""
    weight = weight.detach()
    rows, cols = weight.shape
    return Matrix(DENSE[weight.dtype], rows, cols, weight, bias=bias)


def _address(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    assert tensor.device.type == "cpu" and tensor.is_contiguous()
    return tensor.data_ptr()
