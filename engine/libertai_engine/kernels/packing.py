"""Weights of 8 and 4 bits as the kernels read them.

In: integer codes [rows, cols] and scales; a weight is its code times its scale. Out: a `Packed`,
and from it a `Matrix` to multiply with, or codes and scales again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from libertai_engine.errors import ModelLoadError
from libertai_engine.kernels.matrix import Matrix

PackedKind = Literal["int8", "int4"]
BLOCK = 16  # rows that lie interleaved in int4
GROUP = 32  # columns that share a scale in int4
MOST_COLUMNS = (2**31 - 1) // (255 * 127)
"""Columns that int8 weights may have: products of up to 255 and 127 are summed in 32 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Weights of a layer in 8 or 4 bits. Invariant: `weight`, `scale` belong to [rows, cols].

    Raises `ModelLoadError` for int8 weights of more than `MOST_COLUMNS`.

    int8: weight int8 [rows, cols], scale fp32 [rows].
    int4: weight uint8 [blocks, groups, 256], scale fp16 [blocks, groups, 16]; a block is 16 rows, a
    group 32 columns, the last ones padded with zeros. `source/int4.cpp` says what each byte holds.
    """

    kind: PackedKind
    rows: int
    cols: int
    weight: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        if self.kind == "int8" and self.cols > MOST_COLUMNS:
            raise ModelLoadError(
                f"int8 weights of {self.cols} columns: sums of 32 bits hold {MOST_COLUMNS}"
            )

    def matrix(self, bias: Tensor | None = None) -> Matrix:
        """What the native kernels multiply with; shares this memory. bias [rows] or none."""
        sums = _row_sums(self.weight) if self.kind == "int8" else None  # [rows]
        return Matrix(
            self.kind,
            self.rows,
            self.cols,
            self.weight,
            scale=self.scale,
            extra=sums,
            bias=bias,
            group=GROUP if self.kind == "int4" else 0,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of weights and scales."""
        return self.weight.nbytes + self.scale.nbytes


def _row_sums(codes: Tensor) -> Tensor:
    """Sums of int8 codes [rows, cols], as int32. NOTE: torch would make all of them int32 first."""
    return torch.from_numpy(codes.numpy().sum(1, dtype=np.int32))


def pack_int8(codes: Tensor, scale: Tensor) -> Packed:
    """Codes int8 [rows, cols] in -127..127 and scales [rows]."""
    rows, cols = codes.shape
    return Packed("int8", rows, cols, codes.contiguous(), scale.float().contiguous())


def pack_int4(codes: Tensor, scale: Tensor) -> Packed:
    """Codes int8 [rows, cols] in -8..7 and scales [rows, groups of 32 columns], kept as fp16."""
    rows, cols = codes.shape
    padded = pad(codes, (0, -cols % GROUP, 0, -rows % BLOCK)) + 8
    blocks = padded.shape[0] // BLOCK
    halves = padded.to(torch.uint8).view(
        blocks, BLOCK, -1, 4, 2, 4
    )  # [block, row, group, j, half, q]
    both = halves[..., 0, :] | (halves[..., 1, :] << 4)  # [block, row, group, j, q]
    weight = both.permute(0, 2, 3, 1, 4).reshape(blocks, -1, BLOCK * GROUP // 2)
    scales = pad(scale.to(torch.float16), (0, 0, 0, -rows % BLOCK)).view(blocks, BLOCK, -1)
    return Packed("int4", rows, cols, weight.contiguous(), scales.transpose(1, 2).contiguous())


def codes_of(packed: Packed) -> tuple[Tensor, Tensor]:
    """Codes int8 [rows, cols] and scales: fp32 [rows], or fp16 [rows, groups]."""
    if packed.kind == "int8":
        return packed.weight, packed.scale
    blocks, groups, _ = packed.weight.shape
    both = packed.weight.view(blocks, groups, 4, BLOCK, 4)  # [block, group, j, row, q]
    codes = torch.stack((both & 15, both >> 4), dim=3)  # [block, group, j, half, row, q]
    ordered = codes.permute(0, 4, 1, 2, 3, 5).reshape(blocks * BLOCK, groups * GROUP)
    scale = packed.scale.transpose(1, 2).reshape(blocks * BLOCK, groups)[: packed.rows]
    return ordered[: packed.rows, : packed.cols].to(torch.int8) - 8, scale.contiguous()


def unpack(packed: Packed) -> Tensor:
    """The weights that the packed ones stand for, fp32 [rows, cols]."""
    codes, scale = codes_of(packed)
    if packed.kind == "int8":
        return codes.float() * scale[:, None]
    return codes.float() * scale.float().repeat_interleave(GROUP, 1)[:, : packed.cols]
