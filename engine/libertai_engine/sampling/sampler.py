"""Logits to tokens: one call chooses the next token of every sequence in a batch.

In: logits `[rows, vocab]` and each row's `SamplerState`. Out: a `SampledToken` or the row's error.
The order is llama.cpp's: biases, penalties, a grammar's mask; then the best token if the request is
greedy, else the filters of its chain and a draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from libertai_engine.errors import EngineError, GenerationFailed, InvalidRequest
from libertai_engine.sampling import chain as chains
from libertai_engine.sampling.candidates import Candidates, top_candidates
from libertai_engine.sampling.chain import Chain, build_chain
from libertai_engine.sampling.mirostat import next_mu
from libertai_engine.sampling.penalties import (
    Bias,
    PenaltyWindow,
    add_biases,
    has_penalties,
    penalize,
)
from libertai_engine.sampling.transforms import probabilities
from libertai_engine.sampling.uniform import uniform
from libertai_engine.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The token chosen for one row.

    `probs` holds the most likely `(token id, probability)`, best first, as many as the request
    asked for and the vocabulary allows. With a temperature they are probabilities after all
    filters, the temperature and renormalisation; for a greedy request they are those of the whole
    vocabulary after biases, penalties and mask. The chosen token need not be among them.
    """

    token_id: int
    probs: tuple[tuple[int, float], ...] = ()


class LogitsMask(Protocol):
    """What a grammar does to the logits of one row."""

    def mask(self, logits: torch.Tensor) -> None:
        """Set `logits` `[vocab]` to -inf, in place, for each id that may not come next."""
        ...


class SamplerState:
    """What choosing the tokens of one sequence needs to remember. Belongs to one sequence only.

    `index` is the number of tokens accepted, so the next draw uses random number `index` of `seed`;
    the penalty window holds the latest of prompt and accepted tokens. Raises `InvalidRequest` for a
    bias that is NaN or +inf.
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
        self.mu = 2 * params.mirostat_tau
        self.bias = _bias(params, eos_ids)
        self.window: PenaltyWindow | None = None
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
        return *self.chain.settings[:-1], self.mu


class Sampler:
    """Chooses tokens. Holds nothing: a row's outcome depends on its logits and its state alone."""

    @torch.inference_mode()
    def sample(
        self, logits: torch.Tensor, states: Sequence[SamplerState]
    ) -> list[SampledToken | EngineError]:
        """Choose for every row of `logits` `[rows, vocab]` float32; row i belongs to `states[i]`.

        `logits` is scratch space: biases, penalties and masks are written into it. -inf is a legal
        logit. A row with NaN or +inf gets a `GenerationFailed`, one without any token left an
        `InvalidRequest`, and neither touches the others. Only `mu` of a mirostat state changes;
        the caller calls `accept`.
        """
        assert len(states) == len(logits)
        outcomes = _edit(logits, states)
        for rows in _groups(states):
            chosen = _choose(
                logits if len(rows) == len(states) else logits[rows],
                [states[row] for row in rows],
            )
            for row, outcome in zip(rows, chosen, strict=True):
                outcomes.setdefault(row, outcome)
        return [outcomes[row] for row in range(len(states))]


def _bias(params: SamplingParams, eos_ids: Iterable[int]) -> Bias | None:
    values = dict.fromkeys(eos_ids, -math.inf) if params.ignore_eos else {}
    values.update(params.logit_bias)
    if any(math.isnan(value) or value == math.inf for value in values.values()):
        raise InvalidRequest("`logit_bias` must be finite, or -inf for a ban", field="logit_bias")
    return Bias.of(values) if values else None


def _edit(
    logits: torch.Tensor, states: Sequence[SamplerState]
) -> dict[int, SampledToken | EngineError]:
    """Biases, penalties and masks, in place; the errors of masks by row."""
    biases = [(row, state.bias) for row, state in enumerate(states) if state.bias is not None]
    if biases:
        add_biases(logits, biases)
    windows = [
        (row, state.window, state.params)
        for row, state in enumerate(states)
        if state.window is not None
    ]
    if windows:
        penalize(logits, windows)
    errors: dict[int, SampledToken | EngineError] = {}
    for row, state in enumerate(states):
        try:
            if state.mask is not None:
                state.mask.mask(logits[row])
        except EngineError as error:
            errors[row] = error
    return errors


def _groups(states: Sequence[SamplerState]) -> list[list[int]]:
    """Rows that are chosen for in the same way."""
    groups: dict[object, list[int]] = {}
    for row, state in enumerate(states):
        groups.setdefault(state.chain and state.chain.kind, []).append(row)
    return list(groups.values())


def _choose(
    logits: torch.Tensor, states: Sequence[SamplerState]
) -> list[SampledToken | EngineError]:
    found = [state.chain for state in states if state.chain is not None]
    if not found:
        return _take_best(logits, states)
    candidates = chains.first_candidates(logits, found)
    errors = [_error(best) for best in candidates.logits[:, 0].tolist()]
    good = [row for row, error in enumerate(errors) if error is None]
    kept = Candidates(candidates.logits[good], candidates.ids[good])
    drawn = iter(_draw(kept, [states[row] for row in good]) if good else ())
    return [next(drawn) if error is None else error for error in errors]


def _error(best: float) -> EngineError | None:
    """What is wrong with a row whose largest logit is `best`."""
    if math.isnan(best) or best == math.inf:
        return GenerationFailed("the model's logits are not finite numbers")
    return InvalidRequest("no token possible") if best == -math.inf else None


def _take_best(
    logits: torch.Tensor, states: Sequence[SamplerState]
) -> list[SampledToken | EngineError]:
    """The most likely token of each row, the lowest id of several equal ones."""
    best, ids = logits.max(dim=-1)
    outcomes: list[SampledToken | EngineError] = []
    rows = zip(best.tolist(), ids.tolist(), logits, states, strict=True)
    for value, token_id, row, state in rows:
        error = _error(value)
        outcomes.append(error or SampledToken(token_id, _full_probs(row, state.params.num_probs)))
    return outcomes


def _full_probs(logits: torch.Tensor, num_probs: int) -> tuple[tuple[int, float], ...]:
    """The `num_probs` best of the softmax of `logits` `[vocab]`."""
    if num_probs == 0:
        return ()
    found = top_candidates(logits[None], num_probs)
    best = found.logits[0, 0]
    # NOTE: a sum in the order of the ids, not in a tree: the same bits in any batch.
    total = (logits.cpu().double() - best).exp().cumsum(dim=-1)[-1]
    return _listed(found.ids[0], (found.logits[0] - best).exp() / total, found.logits[0])


def _draw(
    candidates: Candidates, states: Sequence[SamplerState]
) -> list[SampledToken | EngineError]:
    """Filter `candidates` `[rows, k]`, none of them empty, and draw a token from each row."""
    found = [state.chain for state in states if state.chain is not None]
    survivors = chains.run(candidates, found, [state.settings() for state in states])
    probs = probabilities(survivors.logits)
    cumulative = probs.cumsum(dim=-1)  # [rows, k]
    numbers = [[uniform(state.seed, state.index)] for state in states]
    # NOTE: scaling by the last sum, which rounding leaves near 1, keeps the target below it.
    targets = torch.tensor(numbers, dtype=torch.float64) * cumulative[:, -1:]
    columns = torch.searchsorted(cumulative, targets, right=True)  # [rows, 1]
    drawn = zip(
        survivors.ids.gather(-1, columns).flatten().tolist(),
        probs.gather(-1, columns).flatten().tolist(),
        strict=True,
    )
    outcomes: list[SampledToken | EngineError] = []
    for row, ((token_id, probability), state) in enumerate(zip(drawn, states, strict=True)):
        _learn(state, probability)
        top = slice(state.params.num_probs)
        listed = _listed(survivors.ids[row, top], probs[row, top], survivors.logits[row, top])
        outcomes.append(SampledToken(token_id, listed))
    return outcomes


def _learn(state: SamplerState, probability: float) -> None:
    params = state.params
    if params.mirostat:
        state.mu = next_mu(
            state.mu, tau=params.mirostat_tau, eta=params.mirostat_eta, probability=probability
        )


def _listed(
    ids: torch.Tensor, probs: torch.Tensor, logits: torch.Tensor
) -> tuple[tuple[int, float], ...]:
    """Pairs of id and probability, without candidates that were removed."""
    alive = int((logits > -math.inf).sum())
    return tuple(zip(ids[:alive].tolist(), probs[:alive].tolist(), strict=True))
