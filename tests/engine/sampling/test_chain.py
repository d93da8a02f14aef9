"""The chain as a whole: its steps, their order, and its answer against plain lists of floats."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libertai_engine.sampling import transforms
from libertai_engine.sampling.chain import Start, build_chain
from libertai_engine.sampling.mirostat import mirostat_2
from libertai_engine.sampling.sampler import SampledToken, Sampler, SamplerState
from libertai_engine.sampling_params import SamplingParams

Pairs = list[tuple[int, float]]


def plain(**settings: float) -> SamplingParams:
    """Settings with every step neutral but those given."""
    neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}
    return SamplingParams(**(neutral | settings))  # type: ignore[arg-type]


def test_default_chain_is_in_the_documented_order() -> None:
    """Tail-free and typical are off by default."""
    chain = build_chain(SamplingParams())
    assert chain.filters == (
        transforms.top_k,
        transforms.top_p,
        transforms.min_p,
        transforms.temperature,
    )
    assert chain.settings == ((40,), (0.95,), (0.05,), (0.8,))


def test_full_chain_is_in_the_documented_order() -> None:
    """Temperature comes last, after all filters."""
    chain = build_chain(SamplingParams(tfs_z=0.9, typical_p=0.9))
    assert chain.filters == (
        transforms.top_k,
        transforms.tail_free,
        transforms.typical,
        transforms.top_p,
        transforms.min_p,
        transforms.temperature,
    )


def test_mirostat_replaces_the_filters() -> None:
    """Only the temperature goes before it; mu begins at twice the target."""
    chain = build_chain(SamplingParams(mirostat=2, mirostat_tau=3.0))
    assert chain.filters == (transforms.temperature, mirostat_2)
    assert chain.settings == ((0.8,), (6.0,))


@pytest.mark.parametrize(
    ("params", "start"),
    [
        (plain(), Start.UNSORTED),
        (plain(temperature=0.5), Start.UNSORTED),
        (plain(top_p=0.9), Start.CUT),
        (plain(min_p=0.9), Start.CUT),
        (plain(typical_p=0.9), Start.CUT),
        (plain(top_n_sigma=1.0), Start.CUT),
        (plain(top_k=40), Start.BEST),
        (plain(top_k=100_000), Start.BEST),
        (plain(tfs_z=0.9, top_p=0.9), Start.CUT),
        (plain(dynatemp_range=0.5), Start.SORTED),
        (plain(mirostat=1), Start.CUT),
        (plain(mirostat=2, temperature=0.5), Start.CUT),
    ],
)
def test_the_vocabulary_is_sorted_only_where_it_has_to_be(
    params: SamplingParams, start: Start
) -> None:
    """Neutral steps are gone, and what is left tells how to begin."""
    assert build_chain(params).start is start


def slow_softmax(logits: Pairs) -> Pairs:
    """Probabilities of (id, logit) pairs."""
    best = logits[0][1]
    weights = [math.exp(logit - best) for _, logit in logits]
    total = sum(weights)
    return [(token, weight / total) for (token, _), weight in zip(logits, weights, strict=True)]


def slow_tail_free(logits: Pairs, z: float, min_keep: int) -> Pairs:
    """As llama.cpp writes it, on a list."""
    if z >= 1 or len(logits) <= 2:
        return logits
    p = [prob for _, prob in slow_softmax(logits)]
    first = [p[i] - p[i + 1] for i in range(len(p) - 1)]
    second = [abs(first[i] - first[i + 1]) for i in range(len(first) - 1)]
    total = sum(second)
    shares = [d / total if total > 1e-6 else 1 / len(second) for d in second]
    cumulative = 0.0
    for index, share in enumerate(shares):
        cumulative += share
        if cumulative > z and index >= min_keep:
            return logits[:index]
    return logits


def slow_typical(logits: Pairs, p: float, min_keep: int) -> Pairs:
    """As llama.cpp writes it, then sorted again."""
    if p >= 1:
        return logits
    probs = [prob for _, prob in slow_softmax(logits)]
    entropy = sum(-prob * math.log(prob) for prob in probs)
    order = sorted(range(len(probs)), key=lambda i: abs(-math.log(probs[i]) - entropy))
    cumulative = 0.0
    for index, place in enumerate(order):
        cumulative += probs[place]
        if cumulative > p and index >= min_keep - 1:
            order = order[: index + 1]
            break
    return [logits[place] for place in sorted(order)]


def slow_top_p(logits: Pairs, p: float, min_keep: int) -> Pairs:
    """As llama.cpp writes it, on a list."""
    if p >= 1:
        return logits
    cumulative = 0.0
    for index, (_, prob) in enumerate(slow_softmax(logits)):
        cumulative += prob
        if cumulative >= p and index + 1 >= min_keep:
            return logits[: index + 1]
    return logits


def slow_min_p(logits: Pairs, p: float, min_keep: int) -> Pairs:
    """As llama.cpp writes it, on a list."""
    if p <= 0:
        return logits
    probs = slow_softmax(logits)
    for index in range(1, len(probs)):
        if probs[index][1] < p * probs[0][1] and index >= min_keep:
            return logits[:index]
    return logits


def slow_chain(row: list[float], params: SamplingParams) -> Pairs:
    """Distribution after the whole chain."""
    logits = sorted(enumerate(row), key=lambda pair: (-pair[1], pair[0]))
    min_keep = max(1, params.num_probs)
    if params.top_k > 0:
        logits = logits[: max(params.top_k, min_keep)]
    logits = slow_tail_free(logits, params.tfs_z, min_keep)
    logits = slow_typical(logits, params.typical_p, min_keep)
    logits = slow_top_p(logits, params.top_p, min_keep)
    logits = slow_min_p(logits, params.min_p, min_keep)
    return slow_softmax([(token, logit / params.temperature) for token, logit in logits])


# NOTE: settings and logits are coarse on different grids, so that no case sits on a threshold where
# the last bit of a sum decides.
some_settings = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.31, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 5, 23]),
    tfs_z=st.sampled_from([0.413, 0.971, 1.0]),
    typical_p=st.sampled_from([0.217, 0.873, 1.0]),
    top_p=st.sampled_from([0.137, 0.931, 1.0]),
    min_p=st.sampled_from([0.0, 0.0513, 0.417]),
    repeat_penalty=st.just(1.0),
    num_probs=st.integers(1, 30),
)


@settings(deadline=None)
@given(some_settings, st.integers(3, 400), st.integers(0, 2**31))
def test_probabilities_are_those_of_the_plain_definition(
    params: SamplingParams, vocab: int, seed: int
) -> None:
    """Any mix of steps, ties among logits included, next to the same chain on a list."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(1, vocab, generator=generator) * 24).round() / 8
    expected = slow_chain(logits[0].tolist(), params)
    state = SamplerState(
        params, prompt_ids=(), seed=seed, context_size=8, eos_ids=(), newline_id=None
    )
    (token,) = Sampler().sample(logits, [state])
    assert isinstance(token, SampledToken)
    assert token.token_id in {token_id for token_id, _ in expected}
    assert len(token.probs) == min(params.num_probs, vocab)
    for (token_id, prob), (expected_id, expected_prob) in zip(token.probs, expected, strict=False):
        assert token_id == expected_id
        assert prob == pytest.approx(expected_prob, rel=1e-9)
