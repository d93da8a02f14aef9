"""Native linear layers against float64, and against themselves."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libertai_engine.kernels.library import Library
from libertai_engine.kernels.linear import linear
from libertai_engine.kernels.matrix import dense
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


@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 70),
    cols=st.integers(1, 300),
    n=st.integers(1, 40),
    seed=st.integers(0, 1 << 30),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_shape(native: Library, kind: Kind, rows: int, cols: int, n: int, seed: int) -> None:
    """Right, and each row as if it were alone."""
    torch.manual_seed(seed)
    some = layer(kind, rows, cols)
    x = torch.randn(n, cols) * torch.rand(n, 1) * 10
    y = linear(native, some.matrix, x)
    assert ((y.double() - some.exact(x)).abs() <= some.bound(x)).all()
    row = seed % n
    assert torch.equal(y[row], linear(native, some.matrix, x[row]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cols", [2048, 5632 + 64 + 8])
def test_a_row_depends_on_itself_alone(native: Library, kind: Kind, cols: int) -> None:
    """Bit for bit the same in any company, with any number of threads, in several pieces too."""
    torch.manual_seed(1)
    some = layer(kind, 500, cols)
    x = torch.randn(300, cols)
    together = linear(native, some.matrix, x)
    for n in (1, 2, 3, 5, 7, 8, 9, 16, 23, 24, 25, 129):
        assert torch.equal(linear(native, some.matrix, x[:n]), together[:n]), n
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 64):
            torch.set_num_threads(count)
            assert torch.equal(linear(native, some.matrix, x[:19]), together[:19]), count
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (17, 70), (50, 257), (130, 64)])
def test_many_rows_are_as_each_alone(native: Library, kind: Kind, rows: int, cols: int) -> None:
    """Where other orders of weights and tiles pay, and a little below, the bits are the same."""
    torch.manual_seed(rows)
    some = layer(kind, rows, cols, bias=rows % 2 == 0)
    x = torch.randn(131, cols)
    alone = torch.cat([linear(native, some.matrix, row[None]) for row in x])
    assert ((alone.double() - some.exact(x)).abs() <= some.bound(x)).all()
    for n in (47, 48, 49, 57, 63, 64, 65, 71, 128, 131):
        assert torch.equal(linear(native, some.matrix, x[:n]), alone[:n]), n


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_goes_in_and_out(native: Library, kind: Kind) -> None:
    """The results are those of fp32, rounded; leading dimensions stay."""
    torch.manual_seed(2)
    some = layer(kind, 100, 96)
    x = torch.randn(2, 3, 96).to(torch.bfloat16)
    y = linear(native, some.matrix, x)
    assert y.dtype == torch.bfloat16 and y.shape == (2, 3, 100)
    assert torch.equal(y, linear(native, some.matrix, x.float()).to(torch.bfloat16))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38, 1e-44])
def test_strange_numbers_stay_in_their_row(native: Library, kind: Kind, bad: float) -> None:
    """What is no number makes its own row none; neighbours keep their bits."""
    torch.manual_seed(3)
    some = layer(kind, 40, 100)
    x = torch.randn(4, 100)
    clean = linear(native, some.matrix, x)
    x[1, 7] = bad
    y = linear(native, some.matrix, x)
    assert torch.equal(y[[0, 2, 3]], clean[[0, 2, 3]])
    if not math.isfinite(bad):
        assert not y[1].isfinite().any() or kind in {"fp32", "bf16"}
        assert not y[1].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_give_the_bias(native: Library, kind: Kind) -> None:
    """Also where a scale would be a division by zero."""
    some = layer(kind, 20, 64)
    assert some.bias is not None
    y = linear(native, some.matrix, torch.zeros(3, 64))
    assert torch.equal(y, some.bias.expand(3, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_may_lie_anywhere(native: Library, dtype: torch.dtype) -> None:
    """Files are mapped into memory at addresses that are multiples of nothing."""
    torch.manual_seed(4)
    memory = torch.randn(50 * 130 + 1).to(dtype)
    moved = memory[1:].view(50, 130)
    x = torch.randn(9, 130)
    expected = linear(native, dense(moved.clone()), x)
    assert torch.equal(linear(native, dense(moved), x), expected)


def test_no_rows_at_all(native: Library) -> None:
    """Nothing in, nothing out."""
    some = layer("int8", 20, 64)
    assert linear(native, some.matrix, torch.zeros(2, 0, 64)).shape == (2, 0, 20)


def test_several_threads_of_python(native: Library) -> None:
    """Each has its own memory for prepared activations."""
    torch.manual_seed(5)
    some = layer("int4", 64, 128)
    x = torch.randn(40, 5, 128)
    expected = [linear(native, some.matrix, each) for each in x]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: linear(native, some.matrix, each), x))
    assert all(map(torch.equal, found, expected))
