"""Choosing a token out of 128,256: our chain, and llama.cpp's.

In: how the token is chosen. Out: microseconds a token, of many in a row, logits being new each
time: making room for them is part of it for both, making them is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from libertai_engine import SamplingParams
from libertai_engine.sampling.sampler import SampledToken, Sampler, SamplerState
from speed.sides.base import Load

VOCABULARY = 128_256
TOKENS = 64
SPREAD = 2.5  # standard deviation of logits, as models have it
WAYS = {
    "greedy": SamplingParams(temperature=0.0, repeat_penalty=1.0),
    "all filters": SamplingParams(seed=7),  # the defaults of the API
    "no filter": SamplingParams(
        temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0, seed=7
    ),
}


def some_logits() -> torch.Tensor:
    """`[4, vocabulary]`, to be taken in turns."""
    return torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(0)) * SPREAD


def timed(choose: Callable[[int], object]) -> float:
    """Microseconds of one call, of `TOKENS` behind a first few."""
    for number in range(4):
        choose(number)
    begin = time.perf_counter()
    for number in range(TOKENS):
        choose(number)
    return 1e6 * (time.perf_counter() - begin) / TOKENS


class OurSampler:
    """`Sampler.sample` on one row, and what the state learns of the token."""

    def load(self, load: Load) -> dict[str, str]:
        """Only the threads count."""
        torch.set_num_threads(load.threads)
        return {}

    def measure(self, way: str) -> float:
        """Microseconds a token."""
        logits, sampler = some_logits(), Sampler()
        scratch = torch.empty(1, VOCABULARY)
        prompt = np.random.default_rng(0).integers(0, VOCABULARY, 64).tolist()
        state = SamplerState(
            WAYS[way], prompt_ids=prompt, seed=7, context_size=1024, eos_ids=(), newline_id=None
        )

        def choose(number: int) -> None:
            scratch.copy_(logits[number % len(logits)])
            (token,) = sampler.sample(scratch, [state])
            assert isinstance(token, SampledToken)
            state.accept(token.token_id)

        return timed(choose)

    def close(self) -> None:
        """Nothing is held."""
