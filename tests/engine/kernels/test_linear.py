"""Native linear layers against float64."""

from __future__ import annotations

import pytest
import torch

from libertai_engine.kernels import library
from libertai_engine.kernels.library import Library
from libertai_engine.kernels.linear import linear
from libertai_engine.kernels.matrix import dense


@pytest.fixture(scope="module")
def native() -> Library:
    found = library.native()
    if not isinstance(found, Library):
        pytest.skip(found.reason)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "cols", "n"), [(1, 1, 1), (40, 70, 3), (33, 257, 17)])
def test_products_are_those_of_float64(
    native: Library, dtype: torch.dtype, rows: int, cols: int, n: int
) -> None:
    """Off by no more than fp32 sums of `cols` terms can be."""
    torch.manual_seed(rows)
    weight, bias = torch.randn(rows, cols).to(dtype), torch.randn(rows)
    x = torch.randn(n, cols).to(dtype).float()
    y = linear(native, dense(weight, bias), x)
    exact = x.double() @ weight.double().T + bias
    size = x.double().abs() @ weight.double().abs().T + bias.abs()
    assert ((y - exact).abs() <= size * (cols + 2) * 2**-24).all()
