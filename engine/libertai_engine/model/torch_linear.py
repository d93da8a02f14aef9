"""Products with int8 and int4 weights by torch's kernels, where there are no native ones.

In: activations of any number of rows. Out: the products, in the activations' type. Which kernel is
used follows from what was measured: bf16 activations and a layer of 5632 x 2048 on two cores with
AVX-512, milliseconds, best of 30; the weights in bf16 by torch's `linear` for comparison, then in
8 bits and in 4 bits, by a kernel for such weights, by integers, or converted to bf16:

| rows | bf16 | 8: kernel | 8: integers | 8: converted | 4: kernel | 4: converted |
|---|---|---|---|---|---|---|
| 1 | 1.23 | 0.59 | 0.48 | 1.83 | 0.36 | 8.9 |
| 4 | 1.15 | 0.81 | 1.42 | 2.08 | 0.58 | 8.9 |
| 16 | 1.87 | 2.88 | 2.49 | 3.33 | 2.22 | 13.6 |
| 64 | 4.58 | 10.5 | 3.97 | 5.84 | 9.42 | 29 |
| 512 | 28.1 | 81 | 19.8 | 30.0 | 72 | 35 |

NOTE: for many rows, int4 would be faster converted; but then its codes would be needed twice, in
two orders.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from libertai_engine.kernels.packing import BLOCK, GROUP, Packed, codes_of

_LINE = 64  # bytes of a cache line
_FEW_ROWS = 8  # up to here the weight-only kernel is ahead


def multiply_int8(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """x `[n, cols]` times codes `[rows, cols]` and scales `[rows]`: `[n, rows]`."""
    has_kernels = x.device.type == "cpu" and x.dtype == torch.bfloat16
    if has_kernels and x.shape[0] > _FEW_ROWS and torch.cpu._is_vnni_supported():
        return _multiply_integers(x, codes, scale)
    if has_kernels and _is_whole(*codes.shape) and _is_aligned(codes):
        # NOTE: the kernel wants scales in the type of x, which is too coarse for them.
        ones = torch.ones_like(scale, dtype=x.dtype)
        products = torch._weight_int8pack_mm(aligned(x), codes, ones)
    else:
        products = linear(x, codes.to(x.dtype))
    return (products.float() * scale).to(x.dtype)


def aligned(x: Tensor) -> Tensor:
    """The same numbers, row by row, from the beginning of a cache line on.

    NOTE: torch's kernels end the process for other places, as slices and mapped files have them.
    """
    x = x.contiguous()
    return x if _is_aligned(x) else x.clone()


def _is_aligned(x: Tensor) -> bool:
    return x.data_ptr() % _LINE == 0


def _multiply_integers(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """The same with activations in 8 bits, a scale for each of their rows."""
    numbers = x.float()
    steps = numbers.abs().amax(1, keepdim=True).clamp_min_(1e-30) / 127  # [n, 1]
    rounded = (numbers / steps).round_().to(torch.int8)
    return (torch._int_mm(rounded, codes.t()).float() * (steps * scale)).to(x.dtype)


def can_reorder(packed: Packed) -> bool:
    """True if torch has an int4 kernel for a matrix of this shape and place."""
    is_here = packed.weight.device.type == "cpu"
    return packed.kind == "int4" and is_here and _is_whole(packed.rows, packed.cols)


def _is_whole(rows: int, cols: int) -> bool:
    """True for shapes that torch's kernels take: in whole steps, with rows on whole lines."""
    return rows % BLOCK == 0 and cols % GROUP == 0


def reorder(packed: Packed) -> tuple[Tensor, Tensor]:
    """int4 codes as torch's kernel reads them; scales and zeros `[groups, rows, 2]` bf16."""
    codes, scale = codes_of(packed)
    scale = scale.t().to(torch.bfloat16)  # [groups, rows]
    scales = torch.stack((scale, torch.zeros_like(scale)), dim=-1)
    return torch._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32) + 8, 1), scales


def multiply_reordered(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """x `[n, cols]` bf16 times what `reorder` made: `[n, rows]`."""
    return torch._weight_int4pack_mm_for_cpu(aligned(x), codes, GROUP, scales)
