"""A token tried before the mask is made is distributed as one chosen with the mask."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from libertai_engine.errors import NoTokenPossible
from libertai_engine.sampling.sampler import SampledToken, Sampler, SamplerState
from libertai_engine.sampling_params import SamplingParams

GREEDY = SamplingParams(temperature=0.0, repeat_penalty=1.0)
PLAIN = SamplingParams(temperature=0.7, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0)
FILTERED = SamplingParams(temperature=0.7, top_k=3, top_p=0.9, min_p=0.0, repeat_penalty=1.0)
VOCAB = 12


class Only:
    """A mask that allows some ids, and counts how often it was made."""

    def __init__(self, *allowed: int) -> None:
        self.allowed = allowed
        self.num_masks = 0

    def mask(self, logits: torch.Tensor) -> None:
        self.num_masks += 1
        kept = logits[list(self.allowed)].clone()
        logits.fill_(-torch.inf)
        logits[list(self.allowed)] = kept

    def allows(self, token_id: int) -> bool:
        return token_id in self.allowed


def state_of(params: SamplingParams, mask: Only, seed: int = 0) -> SamplerState:
    return SamplerState(
        params,
        prompt_ids=(),
        seed=seed,
        context_size=64,
        eos_ids=(),
        newline_id=None,
        mask=mask,
    )


def random_logits(seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(seed))


def sample(logits: torch.Tensor, state: SamplerState) -> int:
    (token,) = Sampler().sample(logits.clone(), [state])
    assert isinstance(token, SampledToken)
    return token.token_id


def sample_all(logits: torch.Tensor, masks: list[Only]) -> list[int]:
    """A plain draw for each mask, each with a seed of its own."""
    states = [state_of(PLAIN, mask, seed) for seed, mask in enumerate(masks)]
    tokens = Sampler().sample(logits.repeat(len(masks), 1), states)
    return [token.token_id for token in tokens if isinstance(token, SampledToken)]


@pytest.mark.parametrize("seed", range(20))
def test_the_best_allowed_token_is_taken(seed: int) -> None:
    """Greedy, ties included: the lowest id of equal ones, whether the mask was needed or not."""
    logits = random_logits(seed)
    logits[0, [2, 5, 7]] = logits.max() if seed % 2 else logits.min()
    mask = Only(3, 5, 7, 9)
    masked = logits[0].clone()
    Only(3, 5, 7, 9).mask(masked)
    assert sample(logits, state_of(GREEDY, mask)) == int(masked.argmax())
    assert mask.num_masks <= 1


def test_a_plain_draw_is_distributed_as_the_masked_softmax() -> None:
    """Chi-square of 8,000 draws, 5 of 12 tokens allowed; the mask is made for refused ones only.

    With 4 degrees of freedom 23.5 is exceeded once in 10,000 such tests; the seeds are fixed.
    """
    logits, allowed = random_logits(3), (0, 4, 5, 8, 11)
    weights = (logits[0, list(allowed)].double() / PLAIN.temperature).softmax(dim=-1)
    chance = float((logits[0].double() / PLAIN.temperature).softmax(dim=-1)[list(allowed)].sum())
    masks = [Only(*allowed) for _ in range(8000)]
    drawn = Counter(sample_all(logits, masks))
    expected = {each: 8000 * float(p) for each, p in zip(allowed, weights, strict=True)}
    assert set(drawn) <= set(allowed)
    assert sum((drawn[each] - count) ** 2 / count for each, count in expected.items()) < 23.5
    num_refused = sum(mask.num_masks for mask in masks)
    assert num_refused == pytest.approx(8000 * (1 - chance), rel=0.05)


def test_both_draws_of_a_token_are_independent() -> None:
    """The second number is another one: else what is refused would steer what is taken."""
    logits = torch.zeros(1, VOCAB)
    lower, upper = tuple(range(6)), tuple(range(6, 12))
    taken = sample_all(logits, [Only(*lower) for _ in range(6000)])
    first = sample_all(logits, [Only(*lower, *upper) for _ in range(6000)])
    refused = [each for each, tried in zip(taken, first, strict=True) if tried in upper]
    drawn = Counter(taken)
    assert all(850 < drawn[each] < 1150 for each in lower)
    assert all(400 < Counter(refused)[each] < 600 for each in lower)


@pytest.mark.parametrize(
    "params",
    [
        FILTERED,
        SamplingParams(temperature=0.0, num_probs=3),
        SamplingParams(temperature=0.7, top_k=0, top_p=1.0, min_p=0.0, num_probs=3),
        SamplingParams(mirostat=2),
    ],
    ids=["filters", "greedy probabilities", "probabilities", "mirostat"],
)
def test_elsewhere_the_mask_comes_first(params: SamplingParams) -> None:
    """What filters leave, or what is told, depends on it."""
    mask = Only(1, 2)
    (token,) = Sampler().sample(random_logits(1), [state_of(params, mask)])
    assert isinstance(token, SampledToken) and token.token_id in (1, 2)
    assert {token_id for token_id, _ in token.probs} <= {1, 2}
    assert mask.num_masks == 1


def test_nothing_left_is_an_error() -> None:
    """All that the mask would allow is banned."""
    bias = ((1, -torch.inf), (2, -torch.inf))
    for params in (GREEDY, PLAIN, FILTERED):
        banned = SamplingParams(temperature=params.temperature, top_k=params.top_k, logit_bias=bias)
        (error,) = Sampler().sample(random_logits(), [state_of(banned, Only(1, 2))])
        assert isinstance(error, NoTokenPossible)
