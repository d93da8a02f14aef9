"""Attention over lanes equals attention written out, and sees nothing but its own lane."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from libertai_engine.model.attention import MaskRule, UnsupportedAttention, attend, mask_rule
from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.packing import PackedBatch, pack

SLOTS, CONTEXT, HEAD_DIM = 3, 24, 8


def make(*rows: tuple[int, int, int]) -> PackedBatch:
    """Rows of (slot, start, number of tokens)."""
    return pack(
        Batch(tuple(Row(s, start, (1,) * n, 0) for s, start, n in rows)), torch.device("cpu")
    )


def lanes(kv_heads: int, filled: dict[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values where only the first positions of some lanes are numbers; the rest is NaN."""
    key = torch.full((SLOTS, kv_heads, CONTEXT, HEAD_DIM), torch.nan)
    value = key.clone()
    for slot, length in filled.items():
        key[slot, :, :length] = torch.randn(kv_heads, length, HEAD_DIM)
        value[slot, :, :length] = torch.randn(kv_heads, length, HEAD_DIM)
    return key, value


def written_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    start: int,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """`[head, n, d]` on `[kv_head, m, d]`, query by query in double precision; `[n, head, d]`."""
    heads, n, dim = query.shape
    group = heads // key.shape[0]
    out = torch.empty(n, heads, dim, dtype=torch.float64)
    for head in range(heads):
        keys, values = key[head // group].double(), value[head // group].double()
        for i in range(n):
            low = 0 if window is None else max(0, start + i - window + 1)
            scores = keys[low : start + i + 1] @ query[head, i].double() * dim**-0.5
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            exp = scores.exp()
            total = exp.sum() + (0 if sinks is None else sinks[head].double().exp())
            out[i, head] = (exp / total) @ values[low : start + i + 1]
    return out


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("part", [(0, 1), (0, 7), (5, 1), (5, 6), (12, 1), (12, 9)])
@pytest.mark.parametrize("window", [None, 1, 4, 12, 13, 100])
@pytest.mark.parametrize("kind", ["plain", "softcap", "sinks"])
def test_a_row_equals_attention_written_out(
    heads: tuple[int, int], part: tuple[int, int], window: int | None, kind: str
) -> None:
    """Any head grouping, chunk, window, soft cap or sink; a lone row and a row among others."""
    torch.manual_seed(0)
    start, n = part
    softcap = 1.5 if kind == "softcap" else None
    sinks = torch.randn(heads[0]) if kind == "sinks" else None
    key, value = lanes(heads[1], {1: start + n, 2: 3})
    query = torch.randn(1, heads[0], n + 2, HEAD_DIM)
    options: dict[str, Any] = {"sliding_window": window, "softcap": softcap, "s_aux": sinks}
    module = torch.nn.Module()
    expected = written_out(query[0, :, :n], key[1], value[1], start, window, softcap, sinks)
    alone, _ = attend(
        module, query[:, :, :n], key, value, None, packed=make((1, start, n)), **options
    )
    among, _ = attend(
        module, query, key, value, None, packed=make((1, start, n), (2, 1, 2)), **options
    )
    torch.testing.assert_close(alone[0].double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(among[0, :n], alone[0])


def test_a_rule_of_the_model_is_obeyed() -> None:
    """A mask that is neither causal nor a window (here: chunks of 4) is asked by position."""
    torch.manual_seed(0)

    def chunks(batch: Any, head: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (k <= q) & (k // 4 == q // 4)

    key, value = lanes(2, {1: 11})
    query = torch.randn(1, 4, 1, HEAD_DIM)
    got, _ = attend(torch.nn.Module(), query, key, value, MaskRule(chunks), packed=make((1, 10, 1)))
    seen = written_out(query[0], key[1, :, 8:], value[1, :, 8:], 2, None, None, None)
    torch.testing.assert_close(got[0].double(), seen, atol=1e-5, rtol=1e-5)


def test_the_plain_causal_mask_needs_no_rule() -> None:
    """transformers' own causal rule becomes None; any other is kept."""
    from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

    assert mask_rule(mask_function=causal_mask_function, batch_size=1) is None
    assert isinstance(mask_rule(mask_function=sliding_window_causal_mask_function(3)), MaskRule)


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (None, {"position_bias": torch.zeros(1)}, "position_bias"),
        (None, {"indices": torch.zeros(1)}, "indices"),
        (None, {"is_causal": False}, "not causal"),
        (torch.zeros(1, 1, 2, 2), {}, "mask of its own"),
        (None, {"packed": None}, "rows of a batch"),
    ],
)
def test_what_lanes_do_not_have_is_refused(
    mask: Any, options: dict[str, Any], message: str
) -> None:
    """An argument that would change the result is an error, never ignored."""
    key, value = lanes(2, {0: 2})
    with pytest.raises(UnsupportedAttention, match=message):
        attend(
            torch.nn.Module(),
            torch.randn(1, 2, 2, HEAD_DIM),
            key,
            value,
            mask,
            **({"packed": make((0, 0, 2))} | options),
        )


def test_arguments_without_effect_are_let_through() -> None:
    """Flags and bookkeeping that every model passes along change nothing."""
    key, value = lanes(2, {0: 2})
    query = torch.randn(1, 2, 2, HEAD_DIM)
    packed = make((0, 0, 2))
    plain, _ = attend(torch.nn.Module(), query, key, value, None, packed=packed)
    more, _ = attend(
        torch.nn.Module(),
        query,
        key,
        value,
        None,
        packed=packed,
        position_ids=torch.zeros(1, 2),
        use_cache=True,
        output_router_logits=False,
        is_causal=None,
    )
    assert torch.equal(plain, more)
