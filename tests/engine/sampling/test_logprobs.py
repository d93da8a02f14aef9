"""The model's own log-probabilities: unmoved by sampling, and not moving it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from libertai_engine.errors import GenerationFailed, InvalidRequest
from libertai_engine.sampling.sampler import SampledToken, Sampler
from libertai_engine.sampling_params import SamplingParams
from tests.engine.sampling.test_sampler import GREEDY, state_of


@pytest.mark.parametrize(
    "params",
    [
        GREEDY,
        SamplingParams(temperature=1.7, top_k=2, repeat_penalty=1.3, logit_bias=((0, 9.0),)),
        SamplingParams(mirostat=2, logit_bias=((1, -math.inf),)),
    ],
    ids=["greedy", "filtered", "mirostat"],
)
def test_logprobs_are_the_models_own(params: SamplingParams) -> None:
    """Whatever is done to choose the token, and without any effect on the choice."""
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0, -math.inf]])
    expected = torch.log_softmax(logits[0].double(), dim=-1)
    asked = replace(params, num_logprobs=3)
    (found,) = Sampler().sample(logits.clone(), [state_of(asked, prompt_ids=[1, 2])])
    (plain,) = Sampler().sample(logits.clone(), [state_of(params, prompt_ids=[1, 2])])
    assert isinstance(found, SampledToken) and isinstance(plain, SampledToken)
    assert found.token_id == plain.token_id and plain.logprobs is None
    assert found.logprobs is not None
    assert found.logprobs.chosen == pytest.approx(float(expected[found.token_id]))
    assert [token_id for token_id, _ in found.logprobs.top] == [1, 2, 3]
    assert [value for _, value in found.logprobs.top] == pytest.approx(expected[1:4].tolist())


def test_logprobs_of_the_chosen_token_alone_and_of_bad_rows() -> None:
    """0 top ones are a choice; a row without a token has no log-probability either."""
    logits = torch.tensor([[1.0, 3.0], [math.nan, 1.0]])
    states = [state_of(replace(GREEDY, num_logprobs=0)) for _ in range(2)]
    good, bad = Sampler().sample(logits, states)
    assert isinstance(good, SampledToken) and isinstance(bad, GenerationFailed)
    assert good.logprobs is not None and good.logprobs.top == ()
    assert good.logprobs.chosen == pytest.approx(-math.log1p(math.exp(-2)))
    with pytest.raises(InvalidRequest, match="num_logprobs"):
        replace(GREEDY, num_logprobs=101)
