"""A token that is told without sorting the vocabulary is the one that sorting tells."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from libertai_engine.sampling import transforms
from libertai_engine.sampling.candidates import WIDE, Candidates, all_candidates, compact
from libertai_engine.sampling.chain import Chain, Settings, Start, build_chain, run
from libertai_engine.sampling.order import Values
from libertai_engine.sampling.ranked import draw_by_rank
from libertai_engine.sampling.sampler import SampledToken, Sampler, SamplerState
from libertai_engine.sampling.transforms import cumulate, probabilities
from libertai_engine.sampling_params import SamplingParams

PLAIN: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}
RESHAPING: tuple[dict[str, Any], ...] = (
    {"dynatemp_range": 0.5},
    {"dynatemp_range": 0.7, "dynatemp_exponent": 3.0, "temperature": 0.7},
    {"xtc_probability": 1.0, "xtc_threshold": 0.02},
    {"xtc_probability": 1.0, "xtc_threshold": 0.02, "min_keep": 3},
    {"xtc_probability": 0.5, "xtc_threshold": 0.1, "dynatemp_range": 0.5},
    {"xtc_probability": 1.0, "samplers": ("temperature", "xtc"), "temperature": 0.5},
    {"xtc_probability": 1.0, "xtc_threshold": 0.02, "min_keep": WIDE + 3000},
)
VOCAB = WIDE + 3000


def chain_of(changes: dict[str, Any]) -> Chain:
    """A chain that has to begin with all tokens, in order."""
    chain = build_chain(SamplingParams(**PLAIN | {"temperature": 0.8} | changes))
    assert chain.start is Start.SORTED
    return chain


def row_of(seed: int) -> Values:
    """Peaked or flat, with ties, with removed tokens."""
    random = np.random.default_rng(seed)
    values = (random.standard_normal(VOCAB) * (0.01, 1, 3, 8)[seed % 4]).astype(np.float32)
    if seed % 3 == 0:
        values = np.round(values * 4) / 4
    if seed % 5 == 0:
        values[random.random(VOCAB) < 0.5] = -np.inf
    return values


def sorted_draw(values: Values, chain: Chain, settings: tuple[Settings, ...], number: float) -> int:
    """The same with everything sorted."""
    survivors = run(all_candidates(torch.from_numpy(values)[None]), [chain], [settings])
    reached = cumulate(probabilities(survivors))[0]
    return int(survivors.ids[0, reached.searchsorted(number * reached[-1], side="right")])


@pytest.mark.parametrize("changes", RESHAPING)
def test_the_token_is_that_of_the_sorted_vocabulary(changes: dict[str, Any]) -> None:
    """For many rows and numbers; hardly ever it is too close to tell."""
    chain, random, num_told = chain_of(changes), np.random.default_rng(1), 0
    for seed in range(60):
        values = row_of(seed)
        coin = math.inf if seed % 4 == 0 else None
        settings = tuple(
            (coin,) if coin and step is transforms.xtc else each
            for step, each in zip(chain.filters, chain.settings, strict=True)
        )
        number = float(random.choice((0.0, random.random(), 1 - 2.0**-53, 1e-4, 0.999)))
        found = draw_by_rank(values, chain, settings, number)
        if found is not None:
            num_told += 1
            assert found == sorted_draw(values, chain, settings, number), (seed, number)
    assert num_told > 20


def test_what_rounding_might_decide_is_left_to_who_sorts() -> None:
    """A number at the boundary of two tokens, a choice exactly at the threshold, the coldest."""
    values = np.full(VOCAB, -np.inf, np.float32)
    values[[7, 9]] = 1.0
    heated = chain_of({"dynatemp_range": 0.5})
    assert draw_by_rank(values, heated, heated.settings, 0.49) == 7
    assert draw_by_rank(values, heated, heated.settings, 0.5) is None
    assert draw_by_rank(values, heated, heated.settings, 0.51) == 9
    choosing = chain_of({"xtc_probability": 1.0, "xtc_threshold": 0.5})
    assert draw_by_rank(values, choosing, choosing.settings, 0.3) is None
    cold = chain_of({"dynatemp_range": 1.0, "temperature": 1.0})
    values[9] = -np.inf
    values[8] = 0.0
    lowest = ((0.0, 0.0, 1.0),)
    assert draw_by_rank(values, cold, lowest, 0.3) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_other_rows_and_chains_are_left_to_who_sorts(bad: float) -> None:
    """Without finite numbers, with a filter that needs order, and where sorting is cheap."""
    chain, values = chain_of({"dynatemp_range": 0.5}), row_of(2)
    assert draw_by_rank(values, chain, chain.settings, 0.3) is not None
    assert draw_by_rank(values[:WIDE], chain, chain.settings, 0.3) is None
    assert draw_by_rank(np.full_like(values, -np.inf), chain, chain.settings, 0.3) is None
    cutting = chain_of({"top_p": 0.9, "dynatemp_range": 0.5, "samplers": ("temperature", "top_p")})
    assert draw_by_rank(values, cutting, cutting.settings, 0.3) is None
    values[50] = bad
    assert draw_by_rank(values, chain, chain.settings, 0.3) is None


@pytest.mark.parametrize("changes", RESHAPING)
def test_rows_of_one_batch_are_as_alone(changes: dict[str, Any]) -> None:
    """With and without probabilities to tell, which take the sorted way; bad rows harm nobody."""
    logits = torch.from_numpy(np.stack([row_of(seed) for seed in range(6)]))
    logits[4] = math.nan

    def choose(rows: list[int], num_probs: int) -> list[object]:
        params = SamplingParams(**PLAIN | {"temperature": 0.8, "num_probs": num_probs} | changes)
        states = []
        for row in rows:
            state = SamplerState(
                params, prompt_ids=(), seed=row, context_size=9, eos_ids=(), newline_id=None
            )
            state.index = row
            states.append(state)
        return list(Sampler().sample(logits[rows].clone(), states))

    together, telling = choose([*range(6)], 0), choose([*range(6)], 1)
    for row, (outcome, told) in enumerate(zip(together, telling, strict=True)):
        if row == 4:
            assert not isinstance(outcome, SampledToken)
            continue
        assert choose([row], 0) == [outcome]
        assert isinstance(outcome, SampledToken) and isinstance(told, SampledToken)
        assert "min_keep" in changes or outcome.token_id == told.token_id


def candidates_of(seed: int, num_rows: int) -> Candidates:
    rows = np.stack([row_of(seed + 4 * row) for row in range(num_rows)])
    return all_candidates(torch.from_numpy(rows))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("z", [0.1, 0.95, 0.99999])
def test_a_tail_is_cut_where_the_formula_says(seed: int, z: float) -> None:
    """Written out for one row, all columns at once: the same candidates."""
    found = candidates_of(seed, 2)
    cut = transforms.tail_free(found, np.array([[z], [z]]), np.array([[1], [1]]))
    for row in range(2):
        probs = probabilities(Candidates(found.logits[row : row + 1], found.ids[row : row + 1]))[0]
        size = int((found.logits[row] > -np.inf).sum())
        second = np.abs(np.diff(probs[:size], 2))
        shares = second / second.sum() if second.sum() > 1e-6 else np.full(size - 2, 1 / (size - 2))
        behind = np.flatnonzero((shares.cumsum() > z) & (np.arange(size - 2) >= 1))
        kept = int(behind[0]) if len(behind) else size
        alive = cut.logits[row] > -np.inf
        assert abs(int(alive.sum()) - kept) <= (second.sum() <= 1e-6 or shares.min() < 1e-12)
        assert np.array_equal(cut.ids[row][alive], found.ids[row, : alive.sum()])


@pytest.mark.parametrize("counts", [(0, 0, 0), (2, 2, 2), (0, 5, 1)])
def test_the_first_are_dropped_as_if_the_rest_had_moved_up(counts: tuple[int, ...]) -> None:
    """Against moving them one by one."""
    found, dropped = candidates_of(1, 3), np.array(counts)[:, None]
    keep = np.arange(VOCAB) >= dropped
    expected = compact(Candidates(np.where(keep, found.logits, -np.inf), found.ids))
    some = transforms.drop_first(found, dropped)
    for row in range(3):
        alive, others = some.logits[row] > -np.inf, expected.logits[row] > -np.inf
        assert np.array_equal(some.logits[row][alive], expected.logits[row][others])
        assert np.array_equal(some.ids[row][alive], expected.ids[row][others])
