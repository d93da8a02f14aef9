"""The same kernels for older processors, and for none in particular."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path

import pytest
import torch

from libertai_engine.kernels import compiler, library
from libertai_engine.kernels.compiler import CannotCompile
from libertai_engine.kernels.library import Library
from libertai_engine.kernels.linear import linear
from tests.engine.kernels.weights import KINDS, layer

LEVELS = {
    "AVX-512": ("-march=x86-64-v4",),
    "AVX2": ("-march=x86-64-v3",),
    "plain C++": ("-march=x86-64",),
}
NEEDS = {"AVX-512": "avx512vl", "AVX2": "avx2", "plain C++": "sse2"}


@pytest.fixture(scope="module", params=LEVELS)
def older(request: pytest.FixtureRequest, native: Library) -> Library:
    """A library for an older processor than this one."""
    if platform.machine() != "x86_64" or NEEDS[request.param] not in abilities():
        pytest.skip(f"this processor has no {request.param}")
    flags = ("-O1", *LEVELS[request.param])  # -O1 compiles in a third of the time
    built = library.build_and_load(flags=flags)
    assert built.instructions == request.param
    return built


def abilities() -> set[str]:
    """What the processor can do."""
    return set(Path("/proc/cpuinfo").read_text().split())


def test_older_processors_compute_the_same(older: Library) -> None:
    """Within the bounds that hold for this one."""
    torch.manual_seed(0)
    for kind in KINDS:
        for rows, cols in ((1, 1), (37, 70), (48, 257)):
            some = layer(kind, rows, cols)
            for n in (1, 2, 3, 4, 5, 8, 11):
                x = torch.randn(n, cols)
                y = linear(older, some.matrix, x)
                assert ((y.double() - some.exact(x)).abs() <= some.bound(x)).all(), (kind, n)
                alone = torch.cat([linear(older, some.matrix, row[None]) for row in x])
                assert torch.equal(y, alone), (kind, n)


def test_integers_are_summed_alike_everywhere(native: Library, older: Library) -> None:
    """int8 has the same bits on every processor."""
    some = layer("int8", 40, 200)
    x = torch.randn(5, 200)
    assert torch.equal(linear(native, some.matrix, x), linear(older, some.matrix, x))


def test_a_level_that_no_compiler_knows_is_a_reason(native: Library) -> None:
    """As on a processor that the compiler has never heard of."""
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.raises(CannotCompile, match="failed: .*no-such-processor"),
    ):
        compiler.build(Path(folder), flags=("-march=no-such-processor",))
