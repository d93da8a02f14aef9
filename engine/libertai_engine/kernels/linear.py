"""The call of a native linear layer.

In: a `Matrix` and activations. Out: the products, in the activations' type.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from libertai_engine.errors import GenerationFailed
from libertai_engine.kernels.library import Library
from libertai_engine.kernels.matrix import DENSE, Matrix


def linear(library: Library, matrix: Matrix, x: Tensor) -> Tensor:
    """x [..., cols] times the matrix, plus its bias: [..., rows] in the type of x.

    Sums are made in fp32 or integers. A row's result depends on that row alone, not on its
    neighbours, nor on the number of threads. Raises `GenerationFailed` if memory runs out.
    """
    given = x if x.dtype in DENSE else x.float()
    flat = given.reshape(-1, matrix.cols).contiguous()  # [n, cols]
    out = flat.new_empty(flat.shape[0], matrix.rows)
    if not out.numel():
        return out.view(*x.shape[:-1], matrix.rows).to(x.dtype)
    is_bf16 = ctypes.c_int32(flat.dtype == torch.bfloat16)
    failed = library.handle.libertai_linear(
        ctypes.byref(matrix.struct),
        ctypes.c_void_p(flat.data_ptr()),
        is_bf16,
        ctypes.c_int64(matrix.cols),
        ctypes.c_int64(flat.shape[0]),
        ctypes.c_void_p(out.data_ptr()),
        is_bf16,
        ctypes.c_int64(matrix.rows),
        ctypes.c_int32(torch.get_num_threads()),
    )
    if failed:
        raise GenerationFailed("no memory for a linear layer")
    return out.to(x.dtype).view(*x.shape[:-1], matrix.rows)
