"""What the model itself thinks of a token, before anybody edits its logits.

In: logits as they leave the model. Out: natural logarithms of the probabilities that a softmax over
the whole vocabulary gives, for the chosen token and for the most likely ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from libertai_engine.sampling.candidates import top_candidates
from libertai_engine.sampling.weights import weigh


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probabilities of one step: the chosen token's, and `(token id, logprob)`, best first."""

    chosen: float
    top: tuple[tuple[int, float], ...]


class Opinion:
    """The logits of one row, `[vocab]`, kept as they were."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits.clone()

    def of(self, token_id: int, count: int) -> Logprobs:
        """The log-probabilities of `token_id` and of the `count` most likely tokens."""
        weights, best = weigh(self._logits)
        total = best + math.log(float(weights.sum()))
        chosen = float(self._logits[token_id]) - total
        if count == 0:
            return Logprobs(chosen, ())
        found = top_candidates(self._logits[None], count)
        pairs = zip(found.ids[0].tolist(), (found.logits[0] - total).tolist(), strict=True)
        return Logprobs(chosen, tuple(pairs))
