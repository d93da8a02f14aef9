"""Mirostat's truncations against values worked out from its formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from libertai_engine.sampling.candidates import Candidates, Numbers
from libertai_engine.sampling.mirostat import first_mu, mirostat_1, mirostat_2, next_mu

MIN_KEEP = np.ones((1, 1), np.int64)


def candidates_of(weights: list[float]) -> Candidates:
    """Descending weights, which need not add up to 1."""
    return Candidates(np.log([weights]), np.arange(len(weights))[None])


def kept(candidates: Candidates) -> int:
    """Number of survivors of the only row."""
    return int((candidates.logits > -math.inf).sum())


def mu(value: float) -> Numbers:
    """The setting of a single row."""
    return np.array([[value]])


@pytest.mark.parametrize(("bits", "count"), [(0.5, 1), (1.5, 1), (2.5, 2), (3.5, 4), (99, 4)])
def test_second_version_keeps_what_surprises_at_most_mu_bits(bits: float, count: int) -> None:
    """Surprises are 1, 2, 3 and 3 bits; the best stays even if it is above."""
    assert kept(mirostat_2(candidates_of([0.5, 0.25, 0.125, 0.125]), mu(bits), MIN_KEEP)) == count


@pytest.mark.parametrize(
    ("exponent", "bits", "count"),
    [
        # s = 3/2, N = 50: k = (0.5 * 2^4.5 / (1 - 50^-0.5))^(2/3) = 13.177^(2/3) = 5.58
        (1.5, 4.5, 5),
        # s = 1/2: k = (-0.5 * 2^4 / (1 - 50^0.5))^2 = 1.3178^2 = 1.74
        (0.5, 4.0, 1),
        # s = 1/2: k = (-0.5 * 2^6 / (1 - 50^0.5))^2 = 5.271^2 = 27.8
        (0.5, 6.0, 27),
        # s = 1, the limit: k = 2^5 / ln 50 = 8.18
        (1.0, 5.0, 8),
        # more than there are
        (0.5, 60.0, 50),
    ],
)
def test_first_version_keeps_k_of_a_zipf_distribution(
    exponent: float, bits: float, count: int
) -> None:
    """On exact Zipf weights the estimated exponent is the true one."""
    zipf = candidates_of([(rank + 1) ** -exponent for rank in range(50)])
    assert kept(mirostat_1(zipf, mu(bits), MIN_KEEP)) == count


@pytest.mark.parametrize("bits", [-1e9, -3.0, 6.0, 1e9])
def test_first_version_is_defined_everywhere(bits: float) -> None:
    """A flat distribution, a single candidate and extreme mu keep between one and all."""
    assert 1 <= kept(mirostat_1(candidates_of([1.0] * 5), mu(bits), MIN_KEEP)) <= 5
    only = Candidates(np.array([[0.0, -math.inf]]), np.array([[0, 1]]))
    assert kept(mirostat_1(only, mu(bits), MIN_KEEP)) == 1


def test_mu_moves_against_the_error() -> None:
    """A token of 2 bits with a target of 3 raises mu by eta, one of 5 bits lowers it twice that."""
    assert next_mu(6.0, tau=3.0, eta=0.1, probability=0.25) == pytest.approx(6.1)
    assert next_mu(6.0, tau=3.0, eta=0.1, probability=1 / 32) == pytest.approx(5.8)


@pytest.mark.parametrize("tau", [1e308, -1e308, 5.0])
@pytest.mark.parametrize("eta", [10.0, -10.0, 1e308, -1e308])
def test_mu_stays_a_number(tau: float, eta: float) -> None:
    """Settings beyond all reason let it run away, and no infinities meet."""
    value = first_mu(tau)
    for _ in range(5):
        assert math.isfinite(value)
        value = next_mu(value, tau=tau, eta=eta, probability=0.25)
