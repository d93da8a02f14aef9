"""Native attention over a lane equals attention written out, for any heads, window and position."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from libertai_engine.kernels.attend import attend, can_attend
from libertai_engine.kernels.library import Library, native

LIBRARY = native()
pytestmark = pytest.mark.skipif(
    not isinstance(LIBRARY, Library), reason="no native kernels on this machine"
)


def written_out(query: Tensor, keys: Tensor, values: Tensor, window: int) -> Tensor:
    """`[n, head, head_dim]` in float64."""
    heads, count, head_dim = query.shape
    group, end = heads // keys.shape[0], keys.shape[1]
    keys, values = (each.double().repeat_interleave(group, 0) for each in (keys, values))
    scores = query.double() @ keys.mT * head_dim**-0.5  # [head, n, m]
    positions = torch.arange(end - count, end)[:, None]
    seen = torch.arange(end) <= positions
    if window:
        seen &= torch.arange(end) > positions - window
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return (weights @ values).transpose(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("window", [0, 1, 100, 300])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "count", "start"),
    [
        (8, 1, 64, 45, 0),
        (4, 4, 12, 33, 300),
        (6, 2, 80, 1, 511),
        (20, 1, 32, 9, 250),
        (5, 5, 96, 300, 1),
        (14, 2, 128, 20, 600),
    ],
)
def test_attention(
    dtype: torch.dtype,
    window: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    count: int,
    start: int,
) -> None:
    """Heads that share a vector with other tokens, that need several vectors, or fill none."""
    assert isinstance(LIBRARY, Library)
    generator = torch.Generator().manual_seed(heads)
    query, keys, values = (
        torch.randn(rows, length, head_dim, generator=generator).to(dtype)
        for rows, length in ((heads, count), (kv_heads, start + count), (kv_heads, start + count))
    )
    assert can_attend(query, keys, values)
    out = attend(LIBRARY, query, keys, values, scale=head_dim**-0.5, window=window)
    expected = written_out(query, keys, values, window)
    assert out.dtype == dtype
    limit = 1e-6 if dtype == torch.float32 else 1e-2
    assert (out.double() - expected).norm() < limit * expected.norm()


def test_what_a_lane_holds_beyond_is_not_read() -> None:
    """Positions behind the last token may hold NaN, as torch's fresh memory may."""
    assert isinstance(LIBRARY, Library)
    query, lane = torch.randn(4, 3, 64).bfloat16(), torch.randn(2, 64, 64).bfloat16()
    lane[:, 11:] = torch.nan
    keys = lane[:, :11]
    assert attend(LIBRARY, query, keys, keys, scale=0.1, window=0).isfinite().all()


def test_other_memory_is_refused() -> None:
    """Strides, types and devices that the native code does not read."""
    query, keys = torch.zeros(4, 3, 8), torch.zeros(2, 5, 8)
    assert can_attend(query, keys, keys)
    assert not can_attend(query.half(), keys.half(), keys.half())
    assert not can_attend(query, keys.bfloat16(), keys)
    assert not can_attend(query, keys[..., ::2], keys[..., ::2])
    assert not can_attend(query[..., :4], keys, keys)
    assert not can_attend(query, keys.transpose(1, 2).contiguous().transpose(1, 2), keys)
    assert not can_attend(torch.zeros(3, 3, 8), keys, keys)
