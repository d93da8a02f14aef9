"""Codes and scales survive being packed, whatever the shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libertai_engine.errors import ModelLoadError
from libertai_engine.kernels.library import Library
from libertai_engine.kernels.linear import linear
from libertai_engine.kernels.packing import (
    GROUP,
    MOST_COLUMNS,
    codes_of,
    pack_int4,
    pack_int8,
    unpack,
)


@given(rows=st.integers(1, 40), cols=st.integers(1, 100), seed=st.integers(0, 1 << 30))
@settings(max_examples=40, deadline=None)
def test_int4_comes_back(rows: int, cols: int, seed: int) -> None:
    """Every code, also in blocks and groups that are not full."""
    torch.manual_seed(seed)
    codes = torch.randint(-8, 8, (rows, cols), dtype=torch.int8)
    scale = torch.randn(rows, -(-cols // GROUP)).to(torch.float16)
    packed = pack_int4(codes, scale)
    again, scales = codes_of(packed)
    assert torch.equal(again, codes) and torch.equal(scales, scale)
    by_group = scale.float().repeat_interleave(GROUP, 1)[:, :cols]
    assert torch.equal(unpack(packed), codes * by_group)


def test_int8_comes_back() -> None:
    """Codes and scales as they were."""
    codes = torch.randint(-127, 128, (5, 7), dtype=torch.int8)
    scale = torch.rand(5)
    packed = pack_int8(codes, scale)
    assert torch.equal(codes_of(packed)[0], codes) and torch.equal(codes_of(packed)[1], scale)
    assert torch.equal(unpack(packed), codes * scale[:, None])


def test_four_bits_take_four_and_a_half() -> None:
    """Half a byte a weight, and two bytes a scale for each 32."""
    codes = torch.zeros(64, 256, dtype=torch.int8)
    assert pack_int4(codes, torch.ones(64, 8)).nbytes * 8 == codes.numel() * 4.5


@pytest.mark.parametrize("n", [1, 5, 64])
def test_the_largest_sums_are_exact(native: Library, n: int) -> None:
    """The widest matrix there may be, with the largest codes and activations."""
    codes = torch.full((17, MOST_COLUMNS), 127, dtype=torch.int8)
    codes[1::2] = -127
    matrix = pack_int8(codes, torch.full((17,), 2.0)).matrix()
    y = linear(native, matrix, torch.full((n, MOST_COLUMNS), 127.0))
    largest = float(2 * 127 * 127 * MOST_COLUMNS)
    signs = torch.tensor([1.0, -1.0]).repeat(9)[:17]
    assert torch.equal(y, (signs * largest).expand(n, -1))


def test_sums_that_could_overflow_are_refused() -> None:
    """By name, before anything is computed wrong."""
    codes = torch.zeros(1, MOST_COLUMNS + 1, dtype=torch.int8)
    with pytest.raises(ModelLoadError, match=f"{MOST_COLUMNS + 1} columns"):
        pack_int8(codes, torch.ones(1))
