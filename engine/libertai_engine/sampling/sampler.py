"""Logits to tokens: one call chooses the next token of every sequence in a batch.

In: logits `[rows, vocab]` and each row's `SamplerState`. Out: a `SampledToken` or the row's error.
The order is llama.cpp's: biases, penalties, a grammar's mask; then the best token if the request is
greedy, else the filters of its chain and a draw. Where nothing is filtered the mask comes last, and
only if the token needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from libertai_engine.errors import EngineError
from libertai_engine.sampling.draw import AGAIN, Outcome, choose
from libertai_engine.sampling.dry import penalize_repetitions
from libertai_engine.sampling.logprobs import Logprobs, Opinion
from libertai_engine.sampling.penalties import add_biases, penalize
from libertai_engine.sampling.state import LogitsMask, SampledToken, SamplerState

__all__ = ["LogitsMask", "Logprobs", "SampledToken", "Sampler", "SamplerState"]


class Sampler:
    """Chooses tokens. Holds nothing: a row's outcome depends on its logits and its state alone."""

    @torch.inference_mode()
    def sample(self, logits: torch.Tensor, states: Sequence[SamplerState]) -> list[Outcome]:
        """Choose for every row of `logits` `[rows, vocab]` float32; row i belongs to `states[i]`.

        `logits` is scratch space: biases, penalties and masks are written into it. -inf is a legal
        logit. A row with NaN or +inf gets a `GenerationFailed`, one without any token left an
        `InvalidRequest`, and neither touches the others. Only the aim of a mirostat state changes;
        the caller calls `accept`.
        """
        assert len(states) == len(logits)
        opinions = _opinions(logits, states)
        outcomes = _edit(logits, states)
        for rows in _groups(states):
            is_all = len(rows) == len(states)
            chosen = choose(logits if is_all else logits[rows], [states[row] for row in rows])
            for row, outcome in zip(rows, chosen, strict=True):
                outcomes.setdefault(row, outcome)
        for row, state in enumerate(states):
            if state.tries_first:
                outcomes[row] = _try(outcomes[row], logits[row], state)
        _add_logprobs(outcomes, opinions, states)
        return [outcomes[row] for row in range(len(states))]


def _opinions(logits: torch.Tensor, states: Sequence[SamplerState]) -> dict[int, Opinion]:
    """The untouched logits of the rows that want to know them."""
    rows = [row for row, state in enumerate(states) if state.params.num_logprobs is not None]
    return {row: Opinion(logits[row]) for row in rows}


def _add_logprobs(
    outcomes: dict[int, Outcome], opinions: Mapping[int, Opinion], states: Sequence[SamplerState]
) -> None:
    for row, opinion in opinions.items():
        outcome, count = outcomes[row], states[row].params.num_logprobs or 0
        if isinstance(outcome, SampledToken):
            outcomes[row] = replace(outcome, logprobs=opinion.of(outcome.token_id, count))


def _edit(logits: torch.Tensor, states: Sequence[SamplerState]) -> dict[int, Outcome]:
    """Biases, penalties and masks, in place; the errors of masks by row."""
    numbered = list(enumerate(states))
    biases = [(row, state.bias) for row, state in numbered if state.bias is not None]
    if biases:
        add_biases(logits, biases)
    windows = [
        (row, state.window, state.params) for row, state in numbered if state.window is not None
    ]
    if windows:
        penalize(logits, windows)
    repetitions = [
        (row, state.repetitions, state.params)
        for row, state in numbered
        if state.repetitions is not None
    ]
    penalize_repetitions(logits, repetitions)
    errors: dict[int, Outcome] = {}
    for row, state in numbered:
        try:
            if state.mask is not None and not state.tries_first:
                state.mask.mask(logits[row])
        except EngineError as error:
            errors[row] = error
    return errors


def _try(outcome: Outcome, logits: torch.Tensor, state: SamplerState) -> Outcome:
    """The same outcome if the mask allows it, else one of a second choice, with the mask.

    `logits` `[vocab]` are edited but for the mask. `SamplerState.tries_first` says why that is
    right.
    """
    assert state.mask is not None
    if isinstance(outcome, EngineError):
        return outcome
    try:
        if state.mask.allows(outcome.token_id):
            return outcome
        state.mask.mask(logits)
    except EngineError as error:
        return error
    return choose(logits[None], [state], numbers=AGAIN)[0]


def _groups(states: Sequence[SamplerState]) -> list[list[int]]:
    """Rows that are chosen for in the same way."""
    groups: dict[object, list[int]] = {}
    for row, state in enumerate(states):
        groups.setdefault(state.chain and state.chain.kind, []).append(row)
    return list(groups.values())
