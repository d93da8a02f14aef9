"""Quantized layers multiply and look up what their codes say, by whichever kernel."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from libertai_engine.kernels.library import Library, native
from libertai_engine.kernels.packing import Packed, PackedKind, pack_int4, pack_int8, unpack
from libertai_engine.model.quantized import QuantizedEmbedding, QuantizedLinear, QuantizedMatrix
from libertai_engine.model.rounding import round_to_int4, round_to_int8

KINDS: list[PackedKind] = ["int8", "int4"]
SHAPES = [(64, 64), (48, 96), (40, 80), (5, 33)]  # whole blocks, and others


def matrix(kind: PackedKind, rows: int, cols: int) -> QuantizedMatrix:
    generator = torch.Generator().manual_seed(rows * cols)
    weight = torch.randn(rows, cols, generator=generator)
    rounded = round_to_int8(weight) if kind == "int8" else round_to_int4(weight)
    pack = pack_int8 if kind == "int8" else pack_int4
    return QuantizedMatrix(pack(rounded.codes, rounded.scale))


def library(name: str) -> Library | None:
    found = native() if name == "native" else None
    if name == "native" and not isinstance(found, Library):
        pytest.skip("no native kernels here")
    return found if isinstance(found, Library) else None


@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products(kind: PackedKind, shape: tuple[int, int], kernels: str) -> None:
    """For few rows and many, with a bias and without, in every kernel that may be chosen."""
    rows, cols = shape
    exact = unpack(matrix(kind, rows, cols).packed)
    bias = nn.Parameter(torch.linspace(-1, 1, rows).bfloat16(), requires_grad=False)
    for each in (bias, None):
        layer = QuantizedLinear(matrix(kind, rows, cols), each)
        layer.settle(library(kernels))
        for num_rows in (1, 4, 9, 40):
            x = torch.randn(num_rows, cols, generator=torch.Generator().manual_seed(1))
            x = x.bfloat16()
            expected = x.float() @ exact.T + (0 if each is None else each.float())
            y = layer(x[None])[0]
            assert y.dtype == torch.bfloat16 and y.shape == (num_rows, rows)
            assert (y - expected).norm() < 0.015 * expected.norm(), num_rows


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_keep_their_order_multiply_as_well(kind: PackedKind) -> None:
    """As on other devices than a CPU, or before they are saved: also in float32."""
    weights = matrix(kind, 64, 64)
    layer = QuantizedLinear(weights, None)
    x = torch.randn(7, 64)
    torch.testing.assert_close(layer(x), x @ unpack(weights.packed).T, rtol=1e-4, atol=1e-3)


def test_an_embedding_looks_up_rows() -> None:
    """Any shape of ids; the factor of Gemma models comes last, in the type of activations."""
    weights = matrix("int8", 40, 48)
    ids = torch.tensor([[3, 0], [39, 3]])
    rows = unpack(weights.packed)[ids].bfloat16()
    assert torch.equal(QuantizedEmbedding(weights, None, torch.bfloat16)(ids), rows)
    factor = torch.tensor(7.0, dtype=torch.bfloat16)
    assert torch.equal(QuantizedEmbedding(weights, factor, torch.bfloat16)(ids), rows * factor)


def test_what_stands_for_the_weights_tells_only_what_they_are() -> None:
    """Shape, type and device; numbers taken from it are no numbers."""
    layer = QuantizedLinear(matrix("int4", 64, 32), None)
    assert layer.weight.shape == (64, 32) == (layer.out_features, layer.in_features)
    assert layer.weight.dtype == torch.bfloat16
    assert nn.functional.linear(torch.ones(1, 32).bfloat16(), layer.weight).isnan().all()
    assert layer.weight.untyped_storage().nbytes() == 2


@pytest.mark.parametrize("kind", KINDS)
def test_copies_of_a_layer_share_its_weights(kind: PackedKind) -> None:
    """A second body on the same weights takes no memory for them."""
    layer = QuantizedLinear(matrix(kind, 16, 32), None)
    assert copy.deepcopy(layer).weights.codes.data_ptr() == layer.weights.codes.data_ptr()


@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("kind", KINDS)
def test_activations_may_be_slices(kind: PackedKind, kernels: str) -> None:
    """Of any place in memory, in rows of any distance: a layer often gets a part of something."""
    weights = matrix(kind, 64, 32)
    exact = unpack(weights.packed)
    layer = QuantizedLinear(weights, None)
    layer.settle(library(kernels))
    for offset in (1, 3, 8, 16):
        for num_rows in (1, 4, 20):
            for x in (
                torch.randn(num_rows * 32 + offset).bfloat16()[offset:].view(num_rows, 32),
                torch.randn(num_rows, 99).bfloat16()[:, offset : offset + 32],
            ):
                expected = x.float() @ exact.T
                assert (layer(x) - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("kind", KINDS)
def test_codes_may_lie_anywhere(kind: PackedKind, kernels: str, settled: bool) -> None:
    """A file that is mapped has them at multiples of 8 bytes only."""
    plain = matrix(kind, 48, 96)
    exact = unpack(plain.packed)
    held = torch.empty(plain.codes.numel() + 64, dtype=plain.codes.dtype)
    for offset in (1, 8, 24):
        codes = held[offset : offset + plain.codes.numel()].view(plain.codes.shape)
        codes.copy_(plain.codes)
        moved = QuantizedMatrix(Packed(kind, 48, 96, codes, plain.scale))
        layer = QuantizedLinear(moved, None)
        if settled:
            layer.settle(library(kernels))
        for num_rows in (1, 2, 6, 40):
            x = torch.randn(num_rows, 96).bfloat16()
            assert (layer(x) - x.float() @ exact.T).norm() < 0.02 * (x.float() @ exact.T).norm()
