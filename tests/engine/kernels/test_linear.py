"""Native linear layers against float64, and against themselves."""

from __future__ import annotations

import pytest
import torch

from libertai_engine.kernels.library import Library
from libertai_engine.kernels.linear import linear
from tests.engine.kernels.weights import KINDS, Kind, layer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 29])
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (40, 70), (33, 257), (100, 512)])
def test_products_are_those_of_float64(
    native: Library, kind: Kind, rows: int, cols: int, n: int
) -> None:
    """Off by no more than the formats and sums in fp32 make them."""
    torch.manual_seed(rows + n)
    some = layer(kind, rows, cols, bias=n % 2 == 1)
    x = torch.randn(n, cols)
    y = linear(native, some.matrix, x)
    assert ((y.double() - some.exact(x)).abs() <= some.bound(x)).all()
