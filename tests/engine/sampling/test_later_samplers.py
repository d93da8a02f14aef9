"""What servers after 2023 added: values by hand, order by name, and nothing unless asked for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libertai_engine.errors import InvalidRequest
from libertai_engine.sampling import transforms
from libertai_engine.sampling.candidates import Candidates
from libertai_engine.sampling.chain import Start, build_chain
from libertai_engine.sampling.sampler import SampledToken, Sampler, SamplerState
from libertai_engine.sampling_params import SAMPLERS, SamplingParams

PLAIN = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0)
LOGITS = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, -3.0]])


def candidates_of(*logits: float) -> Candidates:
    """One row of descending logits."""
    return Candidates(np.array([logits]), np.arange(len(logits))[None])


def dynamic(candidates: Candidates, low: float, high: float, exponent: float) -> Candidates:
    column = np.array([[low, high, exponent]])
    return transforms.dynamic_temperature(candidates, column, np.array([[1]]))


def state_of(params: SamplingParams, *, seed: int = 0, index: int = 0) -> SamplerState:
    state = SamplerState(
        params, prompt_ids=(1, 1), seed=seed, context_size=16, eos_ids=(), newline_id=None
    )
    state.index = index
    return state


def draw(params: SamplingParams, draws: int = 400) -> set[int]:
    """The tokens that come up at all."""
    states = [state_of(params, index=index) for index in range(draws)]
    outcomes = Sampler().sample(LOGITS.repeat(draws, 1), states)
    return {out.token_id for out in outcomes if isinstance(out, SampledToken)}


@pytest.mark.parametrize(
    ("logits", "low", "high", "exponent", "temperature"),
    [
        ((0.0, 0.0), 0.5, 1.5, 1.0, 1.5),  # all the entropy that there can be
        # p = .9 and .1: 0.3250830 nats of ln 2 are a share of 0.4689956
        ((math.log(9), 0.0), 0.5, 1.5, 1.0, 0.9689956),
        ((math.log(9), 0.0), 0.5, 1.5, 2.0, 0.7199569),
        ((math.log(9), 0.0), 0.0, 2.0, 0.0, 2.0),
        # The removed candidate does not count.
        ((math.log(9), 0.0, -math.inf), 0.5, 1.5, 1.0, 0.9689956),
    ],
)
def test_dynamic_temperature(
    logits: tuple[float, ...], low: float, high: float, exponent: float, temperature: float
) -> None:
    """Between low and high, by the entropy's share of the largest one."""
    scaled = dynamic(candidates_of(*logits), low, high, exponent).logits[0]
    assert scaled[1].item() == pytest.approx((logits[1] - logits[0]) / temperature)
    assert scaled[2:].tolist() == [-math.inf] * (len(logits) - 2)


def test_no_entropy_leaves_the_lowest_temperature() -> None:
    """Even 0, which is greedy then."""
    alone = dynamic(candidates_of(3.0), 0.0, 2.0, 1.0)
    assert transforms.probabilities(alone).tolist() == [[1.0]]
    certain = dynamic(candidates_of(0.0, -800.0), 0.0, 2.0, 1.0)
    assert transforms.probabilities(certain).tolist() == [[1.0, 0.0]]


def test_dynamic_temperature_takes_the_place_of_the_plain_one() -> None:
    """The range lies around the temperature, and not below 0."""
    chain = build_chain(replace(PLAIN, temperature=0.5, dynatemp_range=0.75, dynatemp_exponent=2.0))
    assert chain.filters == (transforms.dynamic_temperature,)
    assert chain.settings == ((0.0, 1.25, 2.0),)


def test_the_chain_counts_min_keep() -> None:
    """A filter that would keep one keeps three."""
    assert draw(replace(PLAIN, top_p=0.01)) == {0}
    assert draw(replace(PLAIN, top_p=0.01, min_keep=3)) == {0, 1, 2}
    assert draw(replace(PLAIN, min_p=0.99, min_keep=2**31 - 1), 4000) == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        # mean -1/12, variance 15.25/6 - 1/144: deviation 1.592
        ({"top_n_sigma": 1.0}, {0, 1, 2}),
        ({"top_n_sigma": 0.5}, {0}),
        ({"top_n_sigma": 0.7}, {0, 1}),
        ({"top_n_sigma": 0.0}, {0, 1, 2, 3, 4, 5}),
        # probabilities .561 .206 .125 .076 .028 .004
        ({"xtc_probability": 1.0, "xtc_threshold": 0.1}, {2, 3, 4, 5}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.5}, {0, 1, 2, 3, 4, 5}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.1, "min_keep": 5}, {0, 1, 2, 3, 4, 5}),
        ({"xtc_probability": 0.0, "xtc_threshold": 0.1}, {0, 1, 2, 3, 4, 5}),
        # Two are left by top_k, of which XTC takes the better one.
        ({"xtc_probability": 1.0, "top_k": 2}, {1}),
    ],
)
def test_who_is_drawn(params: dict[str, float], expected: set[int]) -> None:
    """Of six tokens, of which the last has 3 in a thousand."""
    assert draw(replace(PLAIN, **params), 4000) == expected  # type: ignore[arg-type]


def test_top_choices_are_excluded_as_often_as_asked() -> None:
    """In 30 % of 4,000 steps the best token is out of the question; within 3 deviations."""
    params = replace(PLAIN, xtc_probability=0.3, xtc_threshold=0.1, top_k=4)
    states = [state_of(params, index=index) for index in range(4000)]
    off = sum(state.settings()[1] == (math.inf,) for state in states)
    assert abs(off - 2800) < 3 * math.sqrt(4000 * 0.3 * 0.7)


def test_the_coin_and_the_draw_are_independent() -> None:
    """Excluded or not, a token is drawn by another random number than that of the coin."""
    params = replace(PLAIN, xtc_probability=0.5, xtc_threshold=0.5)
    flat = torch.zeros(1, 2)
    states = [state_of(params, index=index) for index in range(4000)]
    outcomes = Sampler().sample(flat.repeat(4000, 1), states)
    tossed = [state.settings()[0] != (math.inf,) for state in states]
    kept = [
        out.token_id
        for out, is_tossed in zip(outcomes, tossed, strict=True)
        if isinstance(out, SampledToken) and not is_tossed
    ]
    assert abs(sum(kept) / len(kept) - 0.5) < 0.05
    assert all(
        out == SampledToken(1) for out, is_tossed in zip(outcomes, tossed, strict=True) if is_tossed
    )


def test_samplers_run_in_the_order_given() -> None:
    """Twice, too; what is not named does not run."""
    chain = build_chain(
        SamplingParams(samplers=("penalties", "temperature", "min_p", "top_k", "min_p"))
    )
    assert chain.filters == (
        transforms.temperature,
        transforms.min_p,
        transforms.top_k,
        transforms.min_p,
    )
    assert chain.start is Start.CUT


def test_all_of_them_have_their_place() -> None:
    """The order that the documentation tells."""
    chain = build_chain(
        SamplingParams(
            top_n_sigma=2.0, tfs_z=0.9, typical_p=0.9, xtc_probability=0.1, dynatemp_range=0.1
        )
    )
    assert chain.filters == (
        transforms.top_n_sigma,
        transforms.top_k,
        transforms.tail_free,
        transforms.typical,
        transforms.top_p,
        transforms.min_p,
        transforms.xtc,
        transforms.dynamic_temperature,
    )


def test_without_samplers_the_model_is_as_it_is() -> None:
    """No penalty, no temperature, no filter: the softmax of the logits."""
    params = SamplingParams(samplers=(), temperature=0.0, num_probs=6, repeat_penalty=2.0)
    (token,) = Sampler().sample(LOGITS.clone(), [state_of(params)])
    assert isinstance(token, SampledToken)
    expected = LOGITS[0].double().softmax(-1).tolist()
    assert [prob for _, prob in token.probs] == pytest.approx(expected)
    assert len(draw(params)) > 1
    heated = replace(params, samplers=("temperature", "temperature"), temperature=2.0)
    (token,) = Sampler().sample(LOGITS.clone(), [state_of(heated)])
    assert isinstance(token, SampledToken)
    expected = (LOGITS[0].double() / 4).softmax(-1).tolist()
    assert [prob for _, prob in token.probs] == pytest.approx(expected)


def test_mirostat_has_a_temperature_whatever_is_named() -> None:
    """So that 0 is greedy there, too."""
    params = SamplingParams(mirostat=1, temperature=0.0, samplers=())
    assert draw(params) == {0}


def test_penalties_run_only_if_they_are_named() -> None:
    """Token 1 was in the prompt."""
    names = tuple(name for name in SAMPLERS if name != "penalties")
    assert state_of(SamplingParams()).window is not None
    assert state_of(SamplingParams(samplers=names)).window is None


def test_the_widest_range_of_temperatures_is_one_of_numbers() -> None:
    """The largest floats make no infinity, which times no entropy would be no number."""
    params = replace(PLAIN, temperature=1.7e308, dynatemp_range=1.7e308, top_k=1)
    assert draw(params) == {0}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"samplers": ("top_q",)}, "samplers"),
        ({"samplers": ("top_k", "penalties")}, "samplers"),
        ({"samplers": ("dry", "penalties")}, "samplers"),
        ({"samplers": ("penalties", "penalties")}, "samplers"),
        ({"samplers": ("top_k",) * 21}, "samplers"),
        ({"min_keep": -1}, "min_keep"),
        ({"dynatemp_range": math.nan}, "dynatemp_range"),
        ({"dynatemp_exponent": -1.0}, "dynatemp_exponent"),
        ({"top_n_sigma": math.inf}, "top_n_sigma"),
        ({"xtc_probability": 1.5}, "xtc_probability"),
        ({"xtc_threshold": -0.1}, "xtc_threshold"),
        ({"dry_multiplier": -1.0}, "dry_multiplier"),
        ({"dry_base": 0.5}, "dry_base"),
        ({"dry_allowed_length": -1}, "dry_allowed_length"),
        ({"dry_window": -2}, "dry_window"),
        ({"dry_breakers": ("",)}, "dry_breakers"),
        ({"dry_breakers": ("a" * 41,)}, "dry_breakers"),
        ({"dry_breakers": ("a",) * 65}, "dry_breakers"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, object], field: str) -> None:
    """By the name of the field."""
    with pytest.raises(InvalidRequest, match=f"`{field}`") as error:
        SamplingParams(**changes)  # type: ignore[arg-type]
    assert error.value.field == field


@settings(deadline=None)
@given(
    # Logits come from float32; numbers far below its smallest have no standard deviation.
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12),
    st.integers(1, 6),
    st.sampled_from([(transforms.top_n_sigma, 1e6), (transforms.xtc, math.inf)]),
)
def test_neutral_settings_change_nothing(
    logits: list[float], min_keep: int, step: tuple[object, float]
) -> None:
    """The setting that the chain leaves out would also have been the identity."""
    start = candidates_of(*sorted(logits, reverse=True))
    run, neutral = step
    left = run(start, np.array([[neutral]]), np.array([[min_keep]]))  # type: ignore[operator]
    assert np.array_equal(left.logits, start.logits) or len(set(logits)) == 1
    same = dynamic(start, 1.0, 1.0, 1.0)
    assert np.allclose(transforms.probabilities(same), transforms.probabilities(start))
