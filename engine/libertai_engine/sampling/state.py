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
from libertai_engine.sampling.chain import Chain, Settings, Start, build_chain
from libertai_engine.sampling.dry import PieceOf, RepetitionWindow, has_repetition_penalty
from libertai_engine.sampling.logprobs import Logprobs
from libertai_engine.sampling.mirostat import first_mu, next_mu
from libertai_engine.sampling.penalties import Bias, PenaltyWindow, has_penalties
from libertai_engine.sampling.transforms import xtc
from libertai_engine.sampling.uniform import uniform
from libertai_engine.sampling_params import SamplingParams

COIN = 1  # the stream of random numbers that decide whether to exclude top choices


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

    def allows(self, token_id: int) -> bool:
        """Whether `mask` would leave this id."""
        ...


class SamplerState:
    """What choosing the tokens of one sequence needs to remember. Belongs to one sequence only.

    `index` is the number of tokens accepted, so the next draw uses random number `index` of `seed`;
    the two windows hold the latest of prompt and accepted tokens; `chain` is None for a greedy
    request. `piece_of` tells the bytes of a token, for what breaks a repetition. Raises
    `InvalidRequest` for a bias that is NaN or +inf.
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
        piece_of: PieceOf = lambda token_id: b"",
    ) -> None:
        self.params = params
        self.seed = seed
        self.mask = mask
        self.index = 0
        self.chain: Chain | None = None if params.is_greedy else build_chain(params)
        self.bias = _bias(params, eos_ids)
        self.window: PenaltyWindow | None = None
        self._mu = first_mu(params.mirostat_tau)
        if has_penalties(params):
            size = context_size if params.penalty_window < 0 else params.penalty_window
            exempt = None if params.penalize_newline else newline_id
            self.window = PenaltyWindow(size, prompt_ids, exempt=exempt)
        self.repetitions: RepetitionWindow | None = None
        if has_repetition_penalty(params):
            size = context_size if params.dry_window < 0 else params.dry_window
            self.repetitions = RepetitionWindow(size, prompt_ids, params.dry_breakers, piece_of)

    @property
    def tries_first(self) -> bool:
        """Whether a token may be chosen before the mask is made, and again only if it is refused.

        The outcome is distributed as with the mask. A greedy choice: the best of all tokens, if it
        is allowed, is the best of those allowed, ties included. A draw without filters, with p the
        softmax of all tokens and A those allowed: an allowed x comes out at once with p(x), or
        after a refusal, which has the probability 1 - p(A), with p(x) / p(A) from a second random
        number; p(x) + (1 - p(A)) p(x) / p(A) = p(x) / p(A), which is the masked softmax. A filter
        spoils that: what it leaves of all tokens is not what it leaves of those allowed. So do
        probabilities that are told.
        """
        chain, params = self.chain, self.params
        is_plain = chain is None or chain.start is Start.UNSORTED
        return self.mask is not None and is_plain and not (params.num_probs or params.mirostat)

    def accept(self, token_id: int) -> None:
        """The sequence goes on with `token_id`, whether it was sampled or forced."""
        self.index += 1
        if self.window is not None:
            self.window.push(token_id)
        if self.repetitions is not None:
            self.repetitions.push(token_id)

    def settings(self) -> tuple[Settings, ...]:
        """The settings of each filter of the chain, as of now."""
        chain, params = self.chain, self.params
        assert chain is not None
        if params.mirostat:
            return *chain.settings[:-1], (self._mu,)
        if xtc not in chain.filters:
            return chain.settings
        is_tossed = uniform(self.seed, self.index, COIN) < params.xtc_probability
        return tuple(
            settings if is_tossed or step is not xtc else (math.inf,)
            for step, settings in zip(chain.filters, chain.settings, strict=True)
        )

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
