"""What sampling remembers of a sequence, and what it answers.

In: the settings of a request and its prompt. Out: a `SamplerState` that the sampler reads and the
engine feeds with each accepted token.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from libertai_engine.errors import InvalidRequest
from libertai_engine.sampling.chain import Chain, build_chain
from libertai_engine.sampling.logprobs import Logprobs
from libertai_engine.sampling.mirostat import next_mu
from libertai_engine.sampling.penalties import Bias, PenaltyWindow, has_penalties
from libertai_engine.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The token chosen for one row.

    `probs` holds the most likely `(token id, probability)`, best first, as many as the request
    asked for and the vocabulary allows. With a temperature they are probabilities after all
    filters, the temperature and renormalisation; for a greedy request they are those of the whole
    vocabulary after biases, penalties and mask. The chosen token need not be among them. `logprobs`
    are the model's own, None unless asked for.
    """

    token_id: int
    probs: tuple[tuple[int, float], ...] = ()
    logprobs: Logprobs | None = None


class LogitsMask(Protocol):
    """What a grammar does to the logits of one row."""

    def mask(self, logits: torch.Tensor) -> None:
        """Set `logits` `[vocab]` to -inf, in place, for each id that may not come next."""
        ...


class SamplerState:
    """What choosing the tokens of one sequence needs to remember. Belongs to one sequence only.

    `index` is the number of tokens accepted, so the next draw uses random number `index` of `seed`;
    the penalty window holds the latest of prompt and accepted tokens; `chain` is None for a greedy
    request. Raises `InvalidRequest` for a bias that is NaN or +inf.
    """

    def __init__(
        self,
        params: SamplingParams,
        *,
        prompt_ids: Sequence[int],
        seed: int,
        context_size: int,
        eos_ids: Iterable[int],
        newline_id: int | None,
        mask: LogitsMask | None = None,
    ) -> None:
        self.params = params
        self.seed = seed
        self.mask = mask
        self.index = 0
        self.chain: Chain | None = None if params.is_greedy else build_chain(params)
        self.bias = _bias(params, eos_ids)
        self.window: PenaltyWindow | None = None
        self._mu = 2 * params.mirostat_tau
        if has_penalties(params):
            size = context_size if params.penalty_window < 0 else params.penalty_window
            exempt = None if params.penalize_newline else newline_id
            self.window = PenaltyWindow(size, prompt_ids, exempt=exempt)

    def accept(self, token_id: int) -> None:
        """The sequence goes on with `token_id`, whether it was sampled or forced."""
        self.index += 1
        if self.window is not None:
            self.window.push(token_id)

    def settings(self) -> tuple[float, ...]:
        """One setting for each filter of the chain, as of now."""
        assert self.chain is not None
        if not self.params.mirostat:
            return self.chain.settings
        return *self.chain.settings[:-1], self._mu

    def learn(self, probability: float) -> None:
        """A token of this probability was drawn: mirostat corrects its aim."""
        params = self.params
        if params.mirostat:
            self._mu = next_mu(
                self._mu, tau=params.mirostat_tau, eta=params.mirostat_eta, probability=probability
            )


def _bias(params: SamplingParams, eos_ids: Iterable[int]) -> Bias | None:
    """The request's biases; one given for an end token overrides `ignore_eos`."""
    values = dict.fromkeys(eos_ids, -math.inf) if params.ignore_eos else {}
    values.update(params.logit_bias)
    if any(math.isnan(value) or value == math.inf for value in values.values()):
        raise InvalidRequest("`logit_bias` must be finite, or -inf for a ban", field="logit_bias")
    return Bias.of(values) if values else None
