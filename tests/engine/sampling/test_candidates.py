"""Sorted candidates: exact among equal logits, whichever way they are found."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libertai_engine.sampling.candidates import (
    Candidates,
    all_candidates,
    best_on_device,
    compact,
    top_candidates,
)


def by_hand(row: list[float]) -> list[int]:
    """Ids by falling logit, equal ones by id."""
    return sorted(range(len(row)), key=lambda token: (-row[token], token))


def test_of_equal_logits_the_lower_ids_come_first() -> None:
    """At the cut and inside it."""
    logits = torch.tensor([[1.0, 3.0, 1.0, 3.0, 1.0, 0.0]])
    found = top_candidates(logits, 3)
    assert found.ids.tolist() == [[1, 3, 0]]
    assert found.logits.tolist() == [[3, 3, 1]]


@settings(deadline=None)
@given(
    st.integers(1, 3),
    st.integers(2, 6000),
    st.integers(1, 50),
    st.integers(1, 40),
    st.integers(0, 2**31),
)
def test_top_candidates_are_the_first_of_all(
    rows: int, vocab: int, k: int, levels: int, seed: int
) -> None:
    """Few levels make many ties; large vocabularies are searched group by group."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, levels, (rows, vocab), generator=generator).float() - levels / 2
    k = min(k, vocab)
    expected = [by_hand(row)[:k] for row in logits.tolist()]
    assert top_candidates(logits, k).ids.tolist() == expected
    assert all_candidates(logits).ids[:, :k].tolist() == expected


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(2, 600), st.integers(1, 40), st.booleans(), st.randoms())
def test_an_accelerator_finds_the_same(
    rows: int, vocab: int, k: int, has_nan: bool, random: Random
) -> None:
    """With torch's search, which takes any of several equal logits; here, too."""
    logits = torch.tensor([[random.randint(0, 9) / 2 for _ in range(vocab)] for _ in range(rows)])
    if has_nan:
        logits[0, random.randrange(vocab)] = math.nan
    k = min(k, vocab)
    expected = top_candidates(logits, k)
    found = best_on_device(logits, k)
    assert found.ids.tolist() == expected.ids.tolist()
    assert np.array_equal(found.logits, expected.logits, equal_nan=True)


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40))
def test_any_floats_are_sorted_as_numbers(row: list[float]) -> None:
    """Both zeros are equal, denormals and infinities have their place."""
    found = all_candidates(torch.tensor([row]))
    assert found.ids.tolist() == [by_hand(row)]
    assert found.logits.tolist() == [[row[token] for token in by_hand(row)]]


def test_a_nan_comes_first_whatever_its_sign() -> None:
    """So that one look at the first column finds it."""
    negative_nan = torch.tensor([0xFFC00000 - (1 << 32)], dtype=torch.int32).view(torch.float32)
    for nan in (torch.tensor([math.nan]), negative_nan):
        logits = torch.cat((torch.tensor([1.0, math.inf]), nan, torch.zeros(9000)))[None]
        assert math.isnan(all_candidates(logits).logits[0, 0])
        assert math.isnan(top_candidates(logits, 5).logits[0, 0])


def test_compact_moves_removed_candidates_to_the_end() -> None:
    """Those left keep their order."""
    logits = np.array([[-math.inf, 2.0, -math.inf, 1.0, 1.0]])
    found = compact(Candidates(logits, np.array([[9, 8, 7, 6, 5]])))
    assert found.ids[0, :3].tolist() == [8, 6, 5]
    assert found.logits.tolist() == [[2, 1, 1, -math.inf, -math.inf]]
