"""What is cut from the vocabulary before it is sorted is nothing that a filter would have kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libertai_engine.sampling.candidates import all_candidates
from libertai_engine.sampling.chain import Chain, Start, build_chain, run
from libertai_engine.sampling.cut import cut
from libertai_engine.sampling.order import first_ids, sorted_ids
from libertai_engine.sampling_params import SamplingParams

NEUTRAL = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}
CUTTING = (
    {"top_p": 0.7},
    {"top_p": 0.999, "min_p": 0.001},
    {"min_p": 0.2},
    {"typical_p": 0.3},
    {"typical_p": 0.97, "top_p": 0.9},
    {"top_n_sigma": 1.3},
    {"tfs_z": 0.4},
    {"tfs_z": 0.97, "top_p": 0.9},
    {"tfs_z": 0.7, "samplers": ("temperature", "tfs_z", "min_p"), "min_p": 0.1},
    {"mirostat": 1, "mirostat_tau": 3.0},
    {"mirostat": 2, "mirostat_tau": 6.0},
    {"top_k": 300, "samplers": ("temperature", "top_k", "min_p"), "min_p": 0.1},
    {"top_p": 0.9, "samplers": ("temperature", "temperature", "top_p")},
)


def chain_of(changes: dict[str, object], min_keep: int, heat: float) -> Chain:
    """A chain whose first filter cuts."""
    values = NEUTRAL | {"temperature": heat, "min_keep": min_keep} | changes
    chain = build_chain(SamplingParams(**values))  # type: ignore[arg-type]
    assert chain.start is Start.CUT
    return chain


def row_of(vocab: int, seed: int, spread: float, removed: float) -> torch.Tensor:
    """Logits `[1, vocab]`, that share of which is -inf."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, vocab, generator=generator) * spread
    logits[torch.rand(1, vocab, generator=generator) < removed] = -math.inf
    logits[0, seed % vocab] = 3.0
    return logits


@settings(deadline=None)
@given(
    st.sampled_from(CUTTING),
    st.integers(1, 5000),
    st.integers(0, 2**31),
    st.sampled_from([0.0, 0.01, 1.0, 5.0]),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([1, 7, 400]),
    st.sampled_from([0.3, 1.1, 1.9]),
)
def test_survivors_are_those_of_the_whole_vocabulary(
    changes: dict[str, object],
    vocab: int,
    seed: int,
    spread: float,
    removed: float,
    min_keep: int,
    heat: float,
) -> None:
    """The same tokens in the same order, with the same probabilities."""
    logits, chain = row_of(vocab, seed, spread, removed), chain_of(changes, min_keep, heat)
    some = run(cut(logits, [chain], [chain.settings]), [chain], [chain.settings])
    expected = run(all_candidates(logits), [chain], [chain.settings])
    alive, expected_alive = some.logits[0] > -np.inf, expected.logits[0] > -np.inf
    assert some.ids[0][alive].tolist() == expected.ids[0][expected_alive].tolist()
    assert some.logits[0][alive] == pytest.approx(expected.logits[0][expected_alive])
    assert some.whole is None, "no later filter may count what the first has removed"


@pytest.mark.parametrize("changes", CUTTING)
def test_a_cut_looks_at_few_of_many(changes: dict[str, object]) -> None:
    """Of 50,000 logits that are far apart, less than a tenth is ever sorted."""
    logits, chain = row_of(50_000, 1, 5.0, 0.0), chain_of(changes, 1, 1.1)
    assert cut(logits, [chain], [chain.settings]).ids.shape[1] < 5_000


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_without_numbers_is_told_and_harms_no_other(bad: float) -> None:
    """Its first candidate is what is wrong with it."""
    chain = chain_of({"top_p": 0.7}, 1, 1.0)
    logits = torch.cat((row_of(100, 2, 1.0, 0.0), torch.full((1, 100), bad)))
    found = cut(logits, [chain, chain], [chain.settings] * 2)
    alone = cut(logits[:1], [chain], [chain.settings])
    assert found.logits[1, 0] == bad or math.isnan(bad) and math.isnan(found.logits[1, 0])
    assert found.ids[0, : alone.ids.shape[1]].tolist() == alone.ids[0].tolist()


@settings(deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 60), st.integers(0, 2**31))
def test_the_first_ids_are_those_of_all(vocab: int, k: int, levels: int, seed: int) -> None:
    """Few levels make many ties, also at the cut; NaN comes first."""
    random = np.random.default_rng(seed)
    values = random.integers(0, levels, vocab).astype(np.float32) - levels / 2
    if seed % 3 == 0:
        values[values == values[0]] = math.nan
    numbers = np.nan_to_num(values, nan=np.inf).tolist()
    expected = sorted(range(vocab), key=lambda each: (-numbers[each], each))
    assert sorted_ids(values).tolist() == expected
    assert first_ids(values, k).tolist() == expected[:k]


@pytest.mark.parametrize("z", [0.05, 0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("spread", [0.001, 1.0, 3.0, 10.0])
def test_a_tail_begins_where_it_would_among_all(z: float, spread: float) -> None:
    """Told from the best tokens where it can be, with ties, few tokens left, and neighbours."""
    chain = chain_of({"tfs_z": z}, 1, 0.8)
    rows = [row_of(40_000, seed, spread, removed) for seed, removed in ((1, 0.0), (2, 0.996))]
    rows += [(rows[0] * 2).round() / 2, row_of(40_000, 3, 6.0, 0.0)]
    logits, chains, values = torch.cat(rows), [chain] * 4, [chain.settings] * 4
    some = run(cut(logits, chains, values), chains, values)
    expected = run(all_candidates(logits), chains, values)
    for row in range(4):
        alive, others = some.logits[row] > -np.inf, expected.logits[row] > -np.inf
        assert some.ids[row][alive].tolist() == expected.ids[row][others].tolist()
        assert np.array_equal(some.logits[row][alive], expected.logits[row][others])
    peaked = cut(rows[3], [chain], [chain.settings])
    assert z > 0.99 or peaked.ids.shape[1] <= 4096
