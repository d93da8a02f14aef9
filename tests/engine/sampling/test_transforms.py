"""Each filter of the chain on small rows whose survivors were worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libertai_engine.sampling import transforms
from libertai_engine.sampling.candidates import Candidates
from libertai_engine.sampling.chain import Filter

HALVES = (0.5, 0.25, 0.125, 0.0625, 0.0625)
FILTERS = (
    transforms.top_k,
    transforms.tail_free,
    transforms.typical,
    transforms.top_p,
    transforms.min_p,
    transforms.top_n_sigma,
    transforms.xtc,
)


def candidates_of(*rows: tuple[float, ...]) -> Candidates:
    """Rows of descending probabilities; shorter rows are filled up with removed candidates."""
    width = max(map(len, rows))
    logits = [
        [math.log(p) if p else -math.inf for p in row] + [-math.inf] * (width - len(row))
        for row in rows
    ]
    return Candidates(np.array(logits), np.tile(np.arange(width), (len(rows), 1)))


def apply(step: Filter, candidates: Candidates, setting: float, min_keep: int = 1) -> Candidates:
    """The step with one setting for all rows."""
    rows = len(candidates.ids)
    return step(candidates, np.full((rows, 1), setting), np.full((rows, 1), min_keep))


def survivors(candidates: Candidates, row: int = 0) -> list[int]:
    """Ids that are left, best first."""
    alive = candidates.logits[row] > -math.inf
    left: list[int] = candidates.ids[row][alive].tolist()
    return left


# One line per case: filter, probabilities, setting, min_keep, ids that must survive.
CASES = [
    (transforms.top_k, HALVES, 2, 1, [0, 1]),
    (transforms.top_k, HALVES, 2, 3, [0, 1, 2]),
    (transforms.top_k, HALVES, 9, 1, [0, 1, 2, 3, 4]),
    # Cumulative 0.5, 0.75, 0.875, 0.9375, 1: the first that reaches p is the last one kept.
    (transforms.top_p, HALVES, 0.4, 1, [0]),
    (transforms.top_p, HALVES, 0.6, 1, [0, 1]),
    (transforms.top_p, HALVES, 0.8, 1, [0, 1, 2]),
    (transforms.top_p, HALVES, 0.4, 3, [0, 1, 2]),
    (transforms.top_p, HALVES, 0.0, 1, [0]),
    (transforms.top_p, HALVES, -1.0, 2, [0, 1]),
    # Ratios to the best 1, 1/2, 1/4, 1/8, 1/8.
    (transforms.min_p, HALVES, 0.3, 1, [0, 1]),
    (transforms.min_p, HALVES, 0.2, 1, [0, 1, 2]),
    (transforms.min_p, HALVES, 0.3, 4, [0, 1, 2, 3]),
    (transforms.min_p, HALVES, 2.0, 1, [0]),
    # Logits 0 -1 -2 -3 -3 times ln 2: mean -1.8, deviation 1.166.
    (transforms.top_n_sigma, HALVES, 1.0, 1, [0, 1]),
    (transforms.top_n_sigma, HALVES, 2.0, 1, [0, 1, 2]),
    (transforms.top_n_sigma, HALVES, 3.0, 1, [0, 1, 2, 3, 4]),
    (transforms.top_n_sigma, HALVES, 0.01, 1, [0]),
    (transforms.top_n_sigma, HALVES, 0.01, 3, [0, 1, 2]),
    # All that have the threshold go, but for the least likely one of them.
    (transforms.xtc, HALVES, 0.3, 1, [0, 1, 2, 3, 4]),
    (transforms.xtc, HALVES, 0.2, 1, [1, 2, 3, 4]),
    (transforms.xtc, HALVES, 0.1, 1, [2, 3, 4]),
    (transforms.xtc, HALVES, 0.1, 3, [2, 3, 4]),
    (transforms.xtc, HALVES, 0.1, 4, [0, 1, 2, 3, 4]),
    (transforms.xtc, HALVES, 0.0, 1, [4]),
    (transforms.xtc, HALVES, math.inf, 1, [0, 1, 2, 3, 4]),
    # First differences .05 .05 .05 .08 .04, second 0 0 .03 .04, as shares of .07 cumulated
    # 0 0 .43 1: cut at the first share above z, which itself goes.
    (transforms.tail_free, (0.3, 0.25, 0.2, 0.15, 0.07, 0.03), 0.4, 1, [0, 1]),
    (transforms.tail_free, (0.3, 0.25, 0.2, 0.15, 0.07, 0.03), 0.5, 1, [0, 1, 2]),
    (transforms.tail_free, (0.3, 0.25, 0.2, 0.15, 0.07, 0.03), 0.99, 1, [0, 1, 2]),
    (transforms.tail_free, (0.3, 0.25, 0.2, 0.15, 0.07, 0.03), 0.4, 3, [0, 1, 2]),
    # No cut is possible at min_keep or later: nothing is removed.
    (transforms.tail_free, (0.3, 0.25, 0.2, 0.15, 0.07, 0.03), 0.4, 4, [0, 1, 2, 3, 4, 5]),
    # Second differences all 0: equal shares 1/2 and 1.
    (transforms.tail_free, (0.25, 0.25, 0.25, 0.25), 0.7, 1, [0]),
    (transforms.tail_free, (0.7, 0.3), 0.1, 1, [0, 1]),
    # Surprise 1 2 3 4 4 bits, entropy 1.875 bits: distances .875 .125 1.125 2.125 2.125, so the
    # order is 1 0 2 3 4 with cumulative probability .25 .75 .875 .9375 1.
    (transforms.typical, HALVES, 0.2, 1, [1]),
    (transforms.typical, HALVES, 0.3, 1, [0, 1]),
    (transforms.typical, HALVES, 0.8, 1, [0, 1, 2]),
    (transforms.typical, HALVES, 0.2, 3, [0, 1, 2]),
    (transforms.typical, HALVES, 0.0, 1, [1]),
    (transforms.typical, (0.5, 0.5, 0.0), 0.7, 1, [0, 1]),
]


@pytest.mark.parametrize(("step", "probs", "setting", "min_keep", "expected"), CASES)
def test_a_filter_keeps_what_its_definition_keeps(
    step: Filter, probs: tuple[float, ...], setting: float, min_keep: int, expected: list[int]
) -> None:
    """Alone, and next to a longer row whose padding must not matter."""
    alone = apply(step, candidates_of(probs), setting, min_keep)
    assert survivors(alone) == expected
    long_row = tuple(2.0**-n for n in range(1, 12))
    together = apply(step, candidates_of(probs, long_row), setting, min_keep)
    assert survivors(together, 0) == expected


def test_temperature_divides_logits() -> None:
    """At 1/2 probabilities are squared: 1/4 1/16 1/16, renormalised 2/3 1/6 1/6."""
    cooled = apply(transforms.temperature, candidates_of((0.5, 0.25, 0.25)), 0.5)
    expected = [[4 / 6, 1 / 6, 1 / 6]]
    np.testing.assert_allclose(transforms.probabilities(cooled), expected, rtol=1e-12)


def test_tiny_temperature_removes_nothing_and_overflows_nowhere() -> None:
    """The best takes all probability, the others are still candidates, removed ones stay so."""
    cooled = apply(transforms.temperature, candidates_of((0.5, 0.25, 0.25, 0.0)), 1e-310)
    assert survivors(cooled) == [0, 1, 2]
    assert transforms.probabilities(cooled).tolist() == [[1, 0, 0, 0]]


def test_every_filter_sees_probabilities_renormalised_over_the_survivors() -> None:
    """Of .4 .3 .2 .1 top_k 2 leaves 4/7 and 3/7, so that top_p 1/2 then keeps one, not two."""
    start = candidates_of((0.4, 0.3, 0.2, 0.1))
    assert survivors(apply(transforms.top_p, start, 0.5)) == [0, 1]
    after_top_k = apply(transforms.top_k, start, 2)
    assert survivors(apply(transforms.top_p, after_top_k, 0.5)) == [0]


def test_typical_keeps_candidates_sorted_when_the_best_goes() -> None:
    """Later filters count from the best survivor: its min_p ratio is 1."""
    left = apply(transforms.typical, candidates_of(HALVES), 0.2)
    assert left.ids[0, 0] == 1
    assert survivors(apply(transforms.min_p, left, 0.9)) == [1]


weights = st.lists(st.integers(1, 1000), min_size=1, max_size=12)


@settings(deadline=None)
@given(weights, st.sampled_from(FILTERS), st.floats(0.01, 0.99), st.integers(1, 6))
def test_filters_keep_enough_and_leave_a_distribution(
    numbers: list[int], step: Filter, setting: float, min_keep: int
) -> None:
    """At least min_keep survive, sorted, removed ones last, probabilities adding up to 1."""
    total = sum(numbers)
    probs = tuple(sorted((n / total for n in numbers), reverse=True))
    left = apply(step, candidates_of(probs), setting, min_keep)
    assert len(survivors(left)) >= min(min_keep, len(probs))
    assert (left.logits[:, :-1] >= left.logits[:, 1:]).all()
    assert transforms.probabilities(left).sum().item() == pytest.approx(1)


@settings(deadline=None)
@given(weights, st.floats(0.02, 0.98), st.floats(0.02, 0.98))
def test_a_stricter_setting_never_keeps_more(numbers: list[int], one: float, other: float) -> None:
    """top_p and typical grow with p, min_p shrinks with it."""
    total = sum(numbers)
    start = candidates_of(tuple(sorted((n / total for n in numbers), reverse=True)))
    low, high = sorted((one, other))
    for step, strict, loose in (
        (transforms.top_p, low, high),
        (transforms.typical, low, high),
        (transforms.min_p, high, low),
    ):
        assert set(survivors(apply(step, start, strict))) <= set(
            survivors(apply(step, start, loose))
        )


@settings(deadline=None)
@given(weights)
def test_neutral_settings_change_nothing(numbers: list[int]) -> None:
    """The setting that the chain leaves out would also have been the identity."""
    total = sum(numbers)
    start = candidates_of(tuple(sorted((n / total for n in numbers), reverse=True)))
    for step, neutral in (
        (transforms.top_k, len(numbers)),
        (transforms.typical, 1.0),
        (transforms.top_p, 1.0 + 1e-9),
        (transforms.tail_free, 1.0 + 1e-9),
        (transforms.min_p, 0.0),
    ):
        assert survivors(apply(step, start, neutral)) == survivors(start)
    same = transforms.probabilities(apply(transforms.temperature, start, 1.0))
    assert np.array_equal(same, transforms.probabilities(start))
