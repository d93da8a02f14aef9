"""The sampler: which token, with what probability, alone and in company."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libertai_engine.errors import EngineError, GenerationFailed, InvalidRequest, NoTokenPossible
from libertai_engine.sampling.sampler import (
    LogitsMask,
    SampledToken,
    Sampler,
    SamplerState,
)
from libertai_engine.sampling_params import SamplingParams

GREEDY = SamplingParams(temperature=0.0, repeat_penalty=1.0)
PLAIN = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0)
NEWLINE, EOS = 3, (4, 5)


def state_of(
    params: SamplingParams,
    *,
    seed: int = 0,
    index: int = 0,
    prompt_ids: Sequence[int] = (),
    mask: LogitsMask | None = None,
) -> SamplerState:
    """A sequence that is about to draw its token number `index`."""
    state = SamplerState(
        params,
        prompt_ids=prompt_ids,
        seed=seed,
        context_size=16,
        eos_ids=EOS,
        newline_id=NEWLINE,
        mask=mask,
    )
    state.index = index
    return state


def sample_one(logits: list[float], state: SamplerState) -> SampledToken:
    """The outcome of a single row, which must not be an error."""
    (outcome,) = Sampler().sample(torch.tensor([logits]), [state])
    assert isinstance(outcome, SampledToken)
    return outcome


def run(params: SamplingParams, steps: int, *, seed: int) -> list[int]:
    """Tokens of a sequence whose logits depend on nothing."""
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(1)) * 2
    state = state_of(params, seed=seed)
    tokens = []
    for _ in range(steps):
        (outcome,) = Sampler().sample(logits.clone(), [state])
        assert isinstance(outcome, SampledToken)
        state.accept(outcome.token_id)
        tokens.append(outcome.token_id)
    return tokens


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_greedy_takes_the_best_and_of_equals_the_lowest_id(temperature: float) -> None:
    """Also over mirostat and over every filter."""
    params = SamplingParams(temperature=temperature, mirostat=2, repeat_penalty=1.0)
    assert sample_one([1.0, 3.0, 3.0, 2.0], state_of(params)).token_id == 1


def test_greedy_sees_biases_and_penalties() -> None:
    """3 / 2 falls behind 2; a ban takes out whatever is best."""
    halved = replace(GREEDY, repeat_penalty=2.0)
    assert sample_one([1.0, 3.0, 2.0], state_of(halved, prompt_ids=[1])).token_id == 2
    banned = replace(GREEDY, logit_bias=((1, -math.inf),))
    assert sample_one([1.0, 3.0, 2.0], state_of(banned)).token_id == 2


def test_bias_comes_before_the_penalty() -> None:
    """(2 + 2) / 2 = 2 loses against 2.5, where 2 / 2 + 2 = 3 would win."""
    params = replace(GREEDY, repeat_penalty=2.0, logit_bias=((0, 2.0),))
    assert sample_one([2.0, 2.5], state_of(params, prompt_ids=[0])).token_id == 1


def test_accepted_tokens_are_penalised() -> None:
    """Each accepted token halves its logit: 4 -> 2 < 3, then 3 -> 1.5 < 2."""
    state = state_of(replace(GREEDY, repeat_penalty=2.0))
    tokens = []
    for _ in range(3):
        tokens.append(sample_one([4.0, 3.0], state).token_id)
        state.accept(tokens[-1])
    assert tokens == [0, 1, 0]


def test_newline_can_be_left_alone() -> None:
    """Its logit stays 4 while the other falls from 5 to 2.5."""
    params = replace(GREEDY, repeat_penalty=2.0, penalize_newline=False)
    logits = [0.0, 5.0, 0.0, 4.0]
    assert sample_one(logits, state_of(params, prompt_ids=[1, NEWLINE])).token_id == NEWLINE
    both = replace(params, penalize_newline=True)
    assert sample_one(logits, state_of(both, prompt_ids=[1, NEWLINE])).token_id == 1


def test_window_of_minus_one_is_the_whole_context() -> None:
    """The context of `state_of` is 16 tokens; a window of 2 has forgotten token 0."""
    prompt = [0, 1, 1]
    short = replace(GREEDY, repeat_penalty=2.0, penalty_window=2)
    assert sample_one([4.0, 1.0, 3.0], state_of(short, prompt_ids=prompt)).token_id == 0
    whole = replace(short, penalty_window=-1)
    assert sample_one([4.0, 1.0, 3.0], state_of(whole, prompt_ids=prompt)).token_id == 2


def test_ignore_eos_bans_every_end_token_unless_it_is_biased() -> None:
    """4 and 5 both end; a bias given for one of them replaces its ban."""
    logits = [0.0, 1.0, 0.0, 0.0, 9.0, 8.0]
    assert sample_one(logits, state_of(replace(GREEDY, ignore_eos=True))).token_id == 1
    biased = replace(GREEDY, ignore_eos=True, logit_bias=((5, -1.0),))
    assert sample_one(logits, state_of(biased)).token_id == 5


class OnlyOdd:
    """A mask that allows odd ids."""

    def mask(self, logits: torch.Tensor) -> None:
        """Ban the even ids in place."""
        logits[::2] = -math.inf

    def allows(self, token_id: int) -> bool:
        """The same of one id."""
        return token_id % 2 == 1


class Refusing:
    """A mask that cannot go on."""

    def mask(self, logits: torch.Tensor) -> None:
        """Fail as a grammar without a next token does."""
        raise InvalidRequest("the grammar is stuck")

    def allows(self, token_id: int) -> bool:
        """Fail in the same way."""
        raise InvalidRequest("the grammar is stuck")


def test_a_mask_is_applied_to_its_row_only() -> None:
    """After penalties, before the choice."""
    logits = torch.tensor([[5.0, 1.0, 4.0]] * 2)
    states = [state_of(GREEDY, mask=OnlyOdd()), state_of(GREEDY)]
    assert Sampler().sample(logits, states) == [SampledToken(1), SampledToken(0)]


EVERY_KIND = [
    GREEDY,
    replace(GREEDY, num_probs=2),
    SamplingParams(),
    PLAIN,
    replace(PLAIN, top_p=0.9),
    replace(PLAIN, min_p=0.1),
    replace(PLAIN, typical_p=0.5),
    replace(PLAIN, tfs_z=0.5),
    replace(PLAIN, mirostat=1),
    replace(PLAIN, mirostat=2),
    replace(PLAIN, top_n_sigma=1.0),
    replace(PLAIN, xtc_probability=1.0),
    replace(PLAIN, samplers=("temperature", "top_p"), top_p=0.9, temperature=1.0),
]


@pytest.mark.parametrize("params", EVERY_KIND)
@pytest.mark.parametrize("vocab", [8, 700])
def test_a_bad_row_hurts_nobody_else(params: SamplingParams, vocab: int) -> None:
    """NaN and +inf are the model's fault, no token left is the request's; -inf is legal."""
    good = torch.zeros(vocab)
    good[2], good[3] = 50.0, -math.inf
    rows = [good.clone() for _ in range(6)]
    rows[0][7] = math.nan
    rows[2][7] = math.inf
    rows[3][:] = -math.inf
    masks = [None, None, None, None, None, Refusing()]
    states = [state_of(params, mask=mask) for mask in masks]
    outcomes = Sampler().sample(torch.stack(rows), states)
    kinds = [GenerationFailed, SampledToken, GenerationFailed, NoTokenPossible, SampledToken]
    assert [type(outcome) for outcome in outcomes] == [*kinds, InvalidRequest]
    assert str(outcomes[3]) == "no token possible"
    assert str(outcomes[5]) == "the grammar is stuck"
    assert outcomes[1] == outcomes[4] == Sampler().sample(good[None], [state_of(params)])[0]


EXTREME = [
    replace(PLAIN, mirostat=2, mirostat_tau=1e308, mirostat_eta=-10.0),
    replace(PLAIN, mirostat=1, mirostat_tau=-1e308, mirostat_eta=-1e308),
    replace(PLAIN, temperature=1e200, samplers=("temperature", "temperature")),
    replace(PLAIN, temperature=1e-200, samplers=("temperature", "temperature")),
    replace(PLAIN, temperature=1e-308),
    replace(PLAIN, top_n_sigma=1e308),
]


@pytest.mark.parametrize("params", EXTREME)
@pytest.mark.parametrize("num_probs", [0, 3])
def test_extreme_settings_choose_among_what_is_possible(
    params: SamplingParams, num_probs: int
) -> None:
    """Overflows make no token of the banned ones, and neighbours hear nothing of them."""
    logits = torch.tensor([[1.0, -math.inf, 300.0, -math.inf, 1.5]] * 2)
    odd = state_of(replace(params, num_probs=num_probs))
    for _ in range(3):
        outcomes = Sampler().sample(logits.clone(), [odd, state_of(GREEDY)])
        assert outcomes[1] == SampledToken(2)
        assert isinstance(outcomes[0], SampledToken) and outcomes[0].token_id in {0, 2, 4}
        assert all(math.isfinite(prob) for _, prob in outcomes[0].probs)
        odd.accept(outcomes[0].token_id)


@pytest.mark.parametrize("bias", [math.inf, math.nan])
def test_a_bias_that_is_no_number_is_refused(bias: float) -> None:
    """Before anything runs."""
    with pytest.raises(InvalidRequest, match="logit_bias"):
        state_of(replace(GREEDY, logit_bias=((0, bias),)))


def test_greedy_probabilities_are_the_full_softmax_without_temperature() -> None:
    """Weights 1 2 4 1 of 8, equal ones by id, after a bias of ln 2 on the last."""
    params = replace(GREEDY, num_probs=3, logit_bias=((3, math.log(2)),))
    logits = [math.log(weight) for weight in (1, 2, 4, 0.5)]
    probs = sample_one(logits, state_of(params)).probs
    assert [token for token, _ in probs] == [2, 1, 0]
    assert [prob for _, prob in probs] == pytest.approx([4 / 8, 2 / 8, 1 / 8])


def test_drawn_probabilities_are_after_filters_and_temperature() -> None:
    """Weights 1 2 4 1; the 2 best squared by temperature 1/2 are 16 and 4 of 20."""
    params = replace(PLAIN, num_probs=2, top_k=1, temperature=0.5)
    probs = sample_one([math.log(weight) for weight in (1, 2, 4, 1)], state_of(params)).probs
    assert [token for token, _ in probs] == [2, 1]
    assert [prob for _, prob in probs] == pytest.approx([16 / 20, 4 / 20])


@pytest.mark.parametrize("params", EVERY_KIND)
def test_fewer_probabilities_only_where_fewer_tokens_are_possible(params: SamplingParams) -> None:
    """Three tokens are allowed; banned ones are never listed. Mirostat may keep fewer."""
    logits = [1.0, -math.inf, 2.0, -math.inf, 1.5]
    probs = sample_one(logits, state_of(replace(params, num_probs=5))).probs
    assert len(probs) == 3 or params.mirostat
    assert {token for token, _ in probs} <= {0, 2, 4}
    assert [prob for _, prob in probs] == sorted((prob for _, prob in probs), reverse=True)


def p_value(counts: Counter[int], probs: dict[int, float]) -> float:
    """Pearson's chi-square test: probability of counts at least as far off."""
    draws = sum(counts.values())
    statistic = sum((counts[t] - draws * p) ** 2 / (draws * p) for t, p in probs.items())
    freedom = torch.tensor((len(probs) - 1) / 2, dtype=torch.float64)
    half = torch.tensor(statistic / 2, dtype=torch.float64)
    return torch.special.gammaincc(freedom, half).item()


@pytest.mark.parametrize("params", [params for params in EVERY_KIND if not params.is_greedy])
def test_tokens_are_drawn_as_often_as_their_probability_says(params: SamplingParams) -> None:
    """20,000 draws of one step, over the indices of one seed."""
    draws = 20_000
    logits = torch.randn(12, generator=torch.Generator().manual_seed(3))
    states = [state_of(params, seed=11, index=index) for index in range(draws)]
    outcomes = Sampler().sample(logits.repeat(draws, 1), states)
    counts = Counter(out.token_id for out in outcomes if isinstance(out, SampledToken))
    probs = distribution(logits, params)
    assert counts.keys() == probs.keys()
    assert len(probs) > 1
    assert p_value(counts, probs) > 1e-3


def distribution(logits: torch.Tensor, params: SamplingParams) -> dict[int, float]:
    """Id to probability after the chain: the softmax of those tokens that are drawn at all.

    NOTE: `num_probs` cannot tell them, since every filter keeps that many at least.
    """
    states = [state_of(params, seed=5, index=index) for index in range(4000)]
    outcomes = Sampler().sample(logits.repeat(len(states), 1), states)
    ids = sorted({out.token_id for out in outcomes if isinstance(out, SampledToken)})
    weights = (logits[ids].double() / params.temperature).softmax(-1).tolist()
    return dict(zip(ids, weights, strict=True))


@pytest.mark.parametrize("params", [params for params in EVERY_KIND if not params.is_greedy])
def test_equal_seeds_give_equal_texts(params: SamplingParams) -> None:
    """And other seeds others, mirostat with its memory included."""
    assert run(params, 40, seed=7) == run(params, 40, seed=7)
    assert run(params, 40, seed=7) != run(params, 40, seed=8)


def test_a_forced_token_moves_the_random_numbers_on() -> None:
    """Number n belongs to token n, however the tokens before it came about."""
    logits = [0.0] * 50
    forced, drawn = state_of(PLAIN, seed=3), state_of(PLAIN, seed=3)
    forced.accept(17)
    drawn.accept(sample_one(logits, drawn).token_id)
    assert sample_one(logits, forced) == sample_one(logits, drawn)


def test_mirostat_keeps_surprise_near_its_target() -> None:
    """On flat logits over 64 tokens a target of 3 bits is met by about 8 tokens: 3 ± 0.2 bits."""
    params = replace(PLAIN, mirostat=2, mirostat_tau=3.0)
    logits = -torch.arange(64.0).mul(0.02)[None]
    state = state_of(params, seed=1)
    surprises = []
    for _ in range(400):
        state.params = replace(params, num_probs=64)
        (outcome,) = Sampler().sample(logits.clone(), [state])
        assert isinstance(outcome, SampledToken)
        surprises.append(-math.log2(dict(outcome.probs)[outcome.token_id]))
        state.accept(outcome.token_id)
    assert sum(surprises[100:]) / 300 == pytest.approx(3.0, abs=0.2)


any_params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.9]),
    top_k=st.sampled_from([0, 1, 7, 40, 2000]),
    top_p=st.sampled_from([0.2, 0.9, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    tfs_z=st.sampled_from([0.3, 0.95, 1.0]),
    typical_p=st.sampled_from([0.4, 0.9, 1.0]),
    repeat_penalty=st.sampled_from([1.0, 1.1, 0.9]),
    frequency_penalty=st.sampled_from([0.0, 0.3]),
    penalty_window=st.sampled_from([-1, 0, 5]),
    mirostat=st.sampled_from([0, 0, 1, 2]),
    ignore_eos=st.booleans(),
    logit_bias=st.sampled_from([(), ((1, 2.5), (2, -math.inf))]),
    num_probs=st.sampled_from([0, 3]),
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(any_params, min_size=2, max_size=6),
    st.sampled_from([9, 700, 6000]),
    st.sampled_from([1.0, 8.0]),
    st.integers(0, 2**31),
)
def test_a_row_does_not_depend_on_its_neighbours(
    requests: list[SamplingParams], vocab: int, spread: float, seed: int
) -> None:
    """A batch of mixed requests gives what each gives alone: the same tokens, the same bits."""
    generator = torch.Generator().manual_seed(seed)
    # Rounded, so that equal logits abound; peaked or flat, so that a head is enough or not.
    logits = (torch.randn(len(requests), vocab, generator=generator) * spread * 4).round() / 4

    def states() -> list[SamplerState]:
        return [
            state_of(params, seed=seed + row, prompt_ids=[1, 2, 3, row])
            for row, params in enumerate(requests)
        ]

    together = Sampler().sample(logits.clone(), states())
    alone: list[SampledToken | EngineError] = []
    for row, state in enumerate(states()):
        alone += Sampler().sample(logits[row : row + 1].clone(), [state])
    assert together == alone


@pytest.mark.parametrize("params", [replace(PLAIN, top_p=0.8), replace(PLAIN, min_p=0.1)])
@pytest.mark.parametrize("spread", [0.3, 6.0])
def test_the_head_of_the_vocabulary_gives_what_the_whole_gives(
    params: SamplingParams, spread: float
) -> None:
    """A top_k of everything has the whole vocabulary sorted; a spread of 0.3 needs it anyway."""
    sorted_whole = replace(params, top_k=3000)
    logits = torch.randn(50, 3000, generator=torch.Generator().manual_seed(2)) * spread
    quick = [state_of(params, index=index) for index in range(50)]
    slow = [state_of(sorted_whole, index=index) for index in range(50)]
    assert Sampler().sample(logits, quick) == Sampler().sample(logits, slow)
