"""Random layers of every kind, and how far a kernel's results may be from exact ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from libertai_engine.kernels.matrix import KINDS, Kind, Matrix, dense
from libertai_engine.kernels.packing import GROUP, Packed, pack_int4, pack_int8, unpack

__all__ = ["KINDS", "Kind", "Layer", "layer", "packed"]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A matrix, and the numbers it stands for in float64."""

    matrix: Matrix
    weight: Tensor  # [rows, cols]
    bias: Tensor | None  # [rows]

    def exact(self, x: Tensor) -> Tensor:
        """[n, rows], in float64."""
        y = x.double() @ self.weight.T
        return y if self.bias is None else y + self.bias.double()

    def bound(self, x: Tensor) -> Tensor:
        """The most that a result may be off: rounding of activations, and of sums in fp32."""
        size = x.double().abs() @ self.weight.abs().T  # [n, rows]
        if self.bias is not None:
            size = size + self.bias.double().abs()
        terms = self.matrix.cols + 4
        return self._activation_error(x) + size * terms * 2.0**-24

    def _activation_error(self, x: Tensor) -> Tensor:
        """Half a unit of each activation, times its weight's magnitude."""
        weight, size = self.weight.abs(), x.double().abs()
        if self.matrix.kind == "fp32":
            return torch.zeros(x.shape[0], self.matrix.rows, dtype=torch.float64)
        if self.matrix.kind == "bf16":
            return (size * 2.0**-8) @ weight.T
        if self.matrix.kind == "int8":
            unit = size.amax(1, keepdim=True) / 127
            return (unit * 0.5001) * weight.sum(1)
        grouped = pad(size, (0, -x.shape[1] % GROUP)).view(x.shape[0], -1, GROUP)
        unit = (grouped.amax(-1, keepdim=True) / 127).expand_as(grouped).flatten(1)
        return (unit[:, : x.shape[1]] * 0.5001) @ weight.T


def packed(kind: Kind, rows: int, cols: int) -> Packed:
    """Random codes over their whole range, and random scales."""
    if kind == "int8":
        codes = torch.randint(-127, 128, (rows, cols), dtype=torch.int8)
        return pack_int8(codes, torch.rand(rows) + 0.01)
    groups = (cols + GROUP - 1) // GROUP
    codes = torch.randint(-8, 8, (rows, cols), dtype=torch.int8)
    return pack_int4(codes, torch.randn(rows, groups))


def layer(kind: Kind, rows: int, cols: int, *, bias: bool = True) -> Layer:
    """A random layer."""
    added = torch.randn(rows) if bias else None
    if kind in {"int8", "int4"}:
        small = packed(kind, rows, cols)
        return Layer(small.matrix(added), unpack(small).double(), added)
    weight = torch.randn(rows, cols).to(torch.float32 if kind == "fp32" else torch.bfloat16)
    return Layer(dense(weight, added), weight.double(), added)
