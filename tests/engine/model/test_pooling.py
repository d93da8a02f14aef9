"""Pooling and norms: pure functions, against the definitions written out number by number."""

from __future__ import annotations

import math

import pytest
import torch

from libertai_engine.model.pooling import POOLINGS, normalize, pool

STATES = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
LENGTHS = torch.tensor([5, 1, 3])


def by_hand(mode: str, row: torch.Tensor) -> torch.Tensor:
    """One row `[token, hidden]` without padding, pooled in plain words."""
    tokens = list(row)
    count = len(tokens)
    if mode == "max":
        return torch.stack([max(token[i] for token in tokens) for i in range(row.shape[1])])
    weighted = sum((number + 1) * token for number, token in enumerate(tokens))
    ways = {
        "cls": tokens[0],
        "lasttoken": tokens[-1],
        "mean": sum(tokens) / count,
        "mean_sqrt_len_tokens": sum(tokens) / math.sqrt(count),
        "weightedmean": weighted / (count * (count + 1) / 2),
    }
    found = ways[mode]
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("mode", POOLINGS)
def test_each_pooling_is_its_definition(mode: str) -> None:
    """Rows of different lengths in one tensor; what stands in the padding counts for nothing."""
    expected = torch.stack(
        [by_hand(mode, states[:n]) for states, n in zip(STATES, LENGTHS, strict=True)]
    )
    assert torch.allclose(pool(STATES, LENGTHS, [mode]), expected, atol=1e-6)
    padded = STATES.clone()
    padded[1, 1:], padded[2, 3:] = 1e4, -1e4
    # NOTE: the sums begin with other numbers times zero, which must not round anything away.
    assert torch.allclose(pool(padded, LENGTHS, [mode]), expected, atol=1e-6)


def test_several_poolings_stand_side_by_side() -> None:
    """In the order in which they are named."""
    both = pool(STATES, LENGTHS, ["cls", "max"])
    assert torch.equal(both[:, :4], pool(STATES, LENGTHS, ["cls"]))
    assert torch.equal(both[:, 4:], pool(STATES, LENGTHS, ["max"]))


def test_half_precision_is_pooled_in_single() -> None:
    """A mean of many bfloat16 numbers in bfloat16 would lose most of their digits."""
    states = torch.ones(1, 1000, 1, dtype=torch.bfloat16) * 1.0078125
    assert float(pool(states, torch.tensor([1000]), ["mean"])) == pytest.approx(1.0078125, abs=1e-6)


@pytest.mark.parametrize("kind", [-1, 0, 1, 2, 3, 100])
def test_norms_are_those_of_llama_cpp(kind: int) -> None:
    """`common_embd_normalize`, written out."""
    vector = [3.0, -4.0, 0.5]
    size = {
        -1: 1.0,
        0: max(map(abs, vector)) / 32760,
        1: sum(map(abs, vector)),
        2: math.sqrt(sum(each * each for each in vector)),
    }.get(kind) or sum(abs(each) ** kind for each in vector) ** (1 / kind)
    expected = [each / size for each in vector]
    assert normalize(torch.tensor([vector]), kind)[0].tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", [-1, 0, 1, 2, 100])
def test_zeros_stay_zeros(kind: int) -> None:
    """Not a number would make a JSON null of each."""
    assert normalize(torch.zeros(2, 3), kind).tolist() == [[0.0] * 3] * 2
