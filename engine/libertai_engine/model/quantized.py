"""Layers whose weights are int8 or int4: a linear layer and an embedding.

In: packed weights; then activations, or ids. Out: products, or rows. The native kernels multiply
where there are any, else torch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as dense_linear

from libertai_engine.kernels.library import Library
from libertai_engine.kernels.linear import linear
from libertai_engine.kernels.matrix import Matrix
from libertai_engine.kernels.packing import Packed, PackedKind, unpack
from libertai_engine.model.torch_linear import (
    aligned,
    can_reorder,
    multiply_int8,
    multiply_reordered,
    reorder,
)


class QuantizedMatrix(nn.Module):
    """Weights `[rows, cols]` in 8 or 4 bits, as `kernels/packing.py` packs them.

    Invariant: never changed, so that an embedding and a head may share one, except by `reorder`,
    after which codes and scales of 4 bits are what torch's kernel reads, and only it.
    """

    codes: Tensor
    scale: Tensor

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        self.kind: PackedKind = packed.kind
        self.rows, self.cols = packed.rows, packed.cols
        self.is_reordered = False
        self.register_buffer("codes", packed.weight)
        self.register_buffer("scale", packed.scale)

    @property
    def packed(self) -> Packed:
        """The same memory, as the kernels name it."""
        assert not self.is_reordered
        return Packed(self.kind, self.rows, self.cols, self.codes, self.scale)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scale.nbytes

    def stand_in(self, dtype: torch.dtype) -> Tensor:
        """A tensor of this shape and place, without memory, for code that asks weights for these.

        Its numbers are NaN, so that code which uses them is noticed when the model is loaded.
        """
        nan = torch.full((), torch.nan, dtype=dtype, device=self.codes.device)
        return nan.expand(self.rows, self.cols)

    def reorder(self) -> None:
        """Get ready for torch's kernels: 4 bits in their order, 8 bits at places that they read."""
        if self.kind == "int8" and self.codes.device.type == "cpu":
            self.codes = aligned(self.codes)
        if not self.is_reordered and can_reorder(self.packed):
            self.codes, self.scale = reorder(self.packed)
            self.is_reordered = True

    def multiply(self, x: Tensor) -> Tensor:
        """x `[n, cols]` to `[n, rows]` by torch's kernels."""
        if self.is_reordered:
            return multiply_reordered(x.bfloat16(), self.codes, self.scale).to(x.dtype)
        if self.kind == "int8":
            return multiply_int8(x, self.codes, self.scale)
        return dense_linear(x, unpack(self.packed).to(x.dtype))


class QuantizedLinear(nn.Module):
    """`y = x W^T + b` in the type of x. `bias` is `[rows]`, or None.

    Invariant: `matrix` is None, or names the memory of `weights` for the native kernels.
    """

    weights: QuantizedMatrix
    bias: nn.Parameter | None

    def __init__(self, weights: QuantizedMatrix, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weights = weights
        self.register_parameter("bias", bias)
        self.matrix: Matrix | None = None
        self._library: Library | None = None

    @property
    def in_features(self) -> int:
        """Columns, as torch's linear layer calls them."""
        return self.weights.cols

    @property
    def out_features(self) -> int:
        """Rows, as torch's linear layer calls them."""
        return self.weights.rows

    @property
    def weight(self) -> Tensor:
        """Tells the type and the device of activations."""
        return self.weights.stand_in(torch.bfloat16)

    def settle(self, library: Library | None) -> None:
        """Choose who multiplies from now on; to be called when the weights are where they stay."""
        self._library = library
        if library is None:
            self.weights.reorder()
        else:
            self.matrix = self.weights.packed.matrix(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x `[..., cols]` to `[..., rows]`."""
        if self._library is not None and self.matrix is not None:
            return linear(self._library, self.matrix, x)
        y = self.weights.multiply(x.reshape(-1, x.shape[-1]))  # [n, rows]
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], y.shape[-1])

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantizedLinear:
        """Itself: weights that nobody changes need no second copy."""
        return self


class QuantizedEmbedding(nn.Module):
    """Rows of an int8 matrix by id, times `factor`, in `dtype`. A head may have the same matrix."""

    weights: QuantizedMatrix
    factor: Tensor | None

    def __init__(self, weights: QuantizedMatrix, factor: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        assert weights.kind == "int8"
        self.weights = weights
        self.register_buffer("factor", factor, persistent=False)
        self.dtype = dtype

    @property
    def num_embeddings(self) -> int:
        """Rows, as torch's embedding calls them."""
        return self.weights.rows

    @property
    def embedding_dim(self) -> int:
        """Columns, as torch's embedding calls them."""
        return self.weights.cols

    @property
    def weight(self) -> Tensor:
        """Tells the type and the device of what is looked up."""
        return self.weights.stand_in(self.dtype)

    def forward(self, ids: Tensor) -> Tensor:
        """ids `[...]` to `[..., cols]`."""
        rows = self.weights.codes[ids].float() * self.weights.scale[ids][..., None]
        rows = rows.to(self.dtype)
        return rows if self.factor is None else rows * self.factor

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantizedEmbedding:
        """Itself: weights that nobody changes need no second copy."""
        return self
