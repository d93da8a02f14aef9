"""Biases and penalties: exact values, at exactly the ids meant."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libertai_engine.sampling.penalties import (
    Bias,
    PenaltyWindow,
    add_biases,
    has_penalties,
    penalize,
)
from libertai_engine.sampling_params import SamplingParams


def contents(window: PenaltyWindow) -> dict[int, float]:
    """What the window counts."""
    return dict(zip(window.ids().tolist(), window.counts().tolist(), strict=True))


def test_repeat_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    """2 / 1.25 = 1.6 and -2 * 1.25 = -2.5; once, however often the token came."""
    logits = torch.tensor([[2.0, -2.0, 1.0, 0.0]])
    window = PenaltyWindow(64, [0, 1, 0, 3])
    params = SamplingParams(repeat_penalty=1.25)
    penalize(logits, [(0, window, params)])
    torch.testing.assert_close(logits, torch.tensor([[1.6, -2.5, 1.0, 0.0]]))


def test_frequency_counts_and_presence_does_not() -> None:
    """Token 0 came three times: 1 - 3 * 0.5 - 0.25 = -0.75."""
    logits = torch.tensor([[1.0, 1.0, 1.0]])
    window = PenaltyWindow(64, [0, 1, 0, 0])
    params = SamplingParams(repeat_penalty=1.0, frequency_penalty=0.5, presence_penalty=0.25)
    penalize(logits, [(0, window, params)])
    assert logits.tolist() == [[-0.75, 0.25, 1.0]]


def test_repeat_comes_before_frequency_and_presence() -> None:
    """4 / 2 - (1 * 1 + 0.5) = 0.5."""
    logits = torch.tensor([[4.0]])
    params = SamplingParams(repeat_penalty=2.0, frequency_penalty=1.0, presence_penalty=0.5)
    penalize(logits, [(0, PenaltyWindow(8, [0]), params)])
    assert logits.item() == 0.5


def test_rows_have_their_own_windows_and_settings() -> None:
    """A row not named stays as it is."""
    logits = torch.ones(3, 3)
    twice = SamplingParams(repeat_penalty=2.0)
    less = SamplingParams(repeat_penalty=1.0, presence_penalty=3.0)
    penalize(logits, [(0, PenaltyWindow(8, [0, 1]), twice), (2, PenaltyWindow(8, [2]), less)])
    assert logits.tolist() == [[0.5, 0.5, 1], [1, 1, 1], [1, 1, -2]]


def test_an_empty_window_changes_nothing() -> None:
    """As for a request whose prompt is empty."""
    logits = torch.ones(1, 3)
    penalize(logits, [(0, PenaltyWindow(8, []), SamplingParams())])
    assert logits.tolist() == [[1, 1, 1]]


def test_banned_stays_banned_and_nothing_becomes_infinite() -> None:
    """-inf survives every penalty; a finite logit survives the smallest ones."""
    logits = torch.tensor([[-math.inf, 3.0, math.nan]])
    params = SamplingParams(repeat_penalty=1e-40, presence_penalty=-1e300)
    penalize(logits, [(0, PenaltyWindow(8, [0, 1, 2]), params)])
    assert logits[0, 0] == -math.inf
    assert logits[0, 1] == torch.finfo(torch.float32).max
    assert logits[0, 2].isnan()


@pytest.mark.parametrize("repeat_penalty", [5e-324, 1e308])
@pytest.mark.parametrize("others", [-1e308, 0.0, 1e308])
def test_the_most_extreme_settings_give_numbers(repeat_penalty: float, others: float) -> None:
    """Neither a ban nor something that is no number comes of a finite logit, nor a warning."""
    logits = torch.tensor([[-3.0, 3.0, 0.0, -math.inf]])
    params = SamplingParams(
        repeat_penalty=repeat_penalty, presence_penalty=others, frequency_penalty=others
    )
    penalize(logits, [(0, PenaltyWindow(8, [0, 1, 2, 2, 3]), params)])
    assert logits[0, :3].isfinite().all() and logits[0, 3] == -math.inf


@settings(deadline=None)
@given(
    st.integers(1, 10),
    st.lists(st.integers(0, 5), max_size=20),
    st.lists(st.integers(0, 5), max_size=20),
    st.one_of(st.none(), st.integers(0, 5)),
)
def test_the_window_counts_the_latest_tokens(
    size: int, prompt: list[int], generated: list[int], exempt: int | None
) -> None:
    """Of prompt and generated tokens together, the exempt one apart."""
    window = PenaltyWindow(size, prompt, exempt=exempt)
    for token in generated:
        window.push(token)
    latest = (prompt + generated)[-size:]
    assert contents(window) == Counter(token for token in latest if token != exempt)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SamplingParams(), True),
        (SamplingParams(repeat_penalty=1.0), False),
        (SamplingParams(penalty_window=0), False),
        (SamplingParams(repeat_penalty=1.0, presence_penalty=0.1), True),
        (SamplingParams(repeat_penalty=1.0, frequency_penalty=-0.1), True),
    ],
)
def test_neutral_penalties_are_seen(params: SamplingParams, expected: bool) -> None:
    """So that such rows are not looked at."""
    assert has_penalties(params) is expected


def test_biases_are_added_and_unknown_ids_do_nothing() -> None:
    """-inf bans; an id outside the vocabulary, which an end token of the tokenizer may be, does
    nothing."""
    logits = torch.ones(2, 3)
    bias = Bias.of({0: -2.5, 2: -math.inf, 3: 1.0, -1: 1.0})
    add_biases(logits, [(1, bias)])
    assert logits.tolist() == [[1, 1, 1], [-1.5, 1, -math.inf]]


def test_bans_alone() -> None:
    """Of few ids or many, known or not; a logit that is no number stays one, for all to see."""
    for count in (2, 200):
        logits = torch.ones(2, 300)
        logits[1, 1] = math.nan
        add_biases(logits, [(1, Bias.of(dict.fromkeys([-1, 300, *range(count)], -math.inf)))])
        assert logits[0].tolist() == [1] * 300 and math.isnan(logits[1, 1])
        banned = (logits[1] == -math.inf).nonzero().flatten().tolist()
        assert banned == [each for each in range(count) if each != 1]


EXTREME = st.sampled_from([-1e308, -1e30, -1.0, 0.0, 1.0, 1e30, 1e308])


@given(
    st.sampled_from([-math.inf, -1e38, -1.0, 0.0, 1.0, 1e38]),
    st.sampled_from([1e-300, 1e-30, 1.0, 1e30, 1e308]),
    EXTREME,
    EXTREME,
)
def test_the_largest_settings_make_neither_nan_nor_a_ban(
    logit: float, repeat: float, frequency: float, presence: float
) -> None:
    """A finite logit stays finite and a ban a ban, whatever a request says."""
    params = SamplingParams(
        repeat_penalty=repeat, frequency_penalty=frequency, presence_penalty=presence
    )
    logits = torch.tensor([[logit, 0.5]])
    penalize(logits, [(0, PenaltyWindow(8, [0, 0, 0]), params)])
    changed, untouched = logits[0].tolist()
    assert math.isfinite(changed) if logit > -math.inf else changed == -math.inf
    assert untouched == 0.5
