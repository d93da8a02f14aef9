"""One token for each row of a group of requests that are chosen for in the same way.

In: logits after biases, penalties and masks, and the states of the rows. Out: tokens and errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from libertai_engine.errors import EngineError, GenerationFailed, NoTokenPossible
from libertai_engine.sampling.candidates import (
    Candidates,
    Numbers,
    Whole,
    all_candidates,
    top_candidates,
)
from libertai_engine.sampling.chain import Chain, Settings, Start, run
from libertai_engine.sampling.cut import cut
from libertai_engine.sampling.ranked import draw_by_rank
from libertai_engine.sampling.state import SampledToken, SamplerState
from libertai_engine.sampling.transforms import cumulate, probabilities
from libertai_engine.sampling.uniform import uniform
from libertai_engine.sampling.weights import weigh

Outcome = SampledToken | EngineError
FIRST, AGAIN = 0, 2  # streams of random numbers: for the first draw of a token, and for a second


def choose(
    logits: torch.Tensor, states: Sequence[SamplerState], *, numbers: int = FIRST
) -> list[Outcome]:
    """Choose for `logits` `[rows, vocab]`; the chains of `states` are of one kind, or all None.

    `numbers` is the stream of random numbers to draw with. Only rows that are not filtered are
    drawn for more than once.
    """
    chains = _chains(states)
    if not chains:
        return _take_best(logits, states)
    if chains[0].start is Start.UNSORTED:
        return [
            _draw_unfiltered(row, state, chain.heat, numbers)
            for row, state, chain in zip(logits, states, chains, strict=True)
        ]
    settings = [state.settings() for state in states]
    if chains[0].start is Start.SORTED:
        return _draw_sorted(logits, states, settings)
    return _draw_filtered(_start(logits, chains, settings), states, settings)


def _draw_sorted(
    logits: torch.Tensor,
    states: Sequence[SamplerState],
    settings: Sequence[Sequence[Settings]],
) -> list[Outcome]:
    """Sort, but for rows whose token can be told without; the outcome is the same."""
    drawn: dict[int, Outcome] = {}
    values = logits.cpu()
    for row, (state, each) in enumerate(zip(states, settings, strict=True)):
        if state.chain is not None and not state.params.num_probs:
            number = uniform(state.seed, state.index, FIRST)
            token_id = draw_by_rank(values[row].numpy(), state.chain, each, number)
            if token_id is not None:
                drawn[row] = SampledToken(token_id)
    rest = [row for row in range(len(states)) if row not in drawn]
    if rest:
        found = all_candidates(values if len(rest) == len(states) else values[rest])
        outcomes = _draw_filtered(
            found, [states[row] for row in rest], [settings[row] for row in rest]
        )
        drawn.update(zip(rest, outcomes, strict=True))
    return [drawn[row] for row in range(len(states))]


def _chains(states: Sequence[SamplerState]) -> list[Chain]:
    return [state.chain for state in states if state.chain is not None]


def _start(
    logits: torch.Tensor, chains: Sequence[Chain], settings: Sequence[Sequence[Settings]]
) -> Candidates:
    if chains[0].start is Start.BEST:
        return top_candidates(logits, max(chain.width for chain in chains))
    return cut(logits, chains, settings)


def _error(best: float) -> EngineError | None:
    """What is wrong with a row whose largest logit is `best`; NaN anywhere makes that NaN."""
    if math.isnan(best) or best == math.inf:
        return GenerationFailed("the model's logits are not finite numbers")
    return NoTokenPossible() if best == -math.inf else None


def _take_best(logits: torch.Tensor, states: Sequence[SamplerState]) -> list[Outcome]:
    """The largest logit, the lowest id of several equal ones."""
    return [
        _error(value) or SampledToken(token_id, _softmax_top(row, 1.0, state.params.num_probs))
        for value, token_id, row, state in zip(*_best(logits), logits, states, strict=True)
    ]


def _best(logits: torch.Tensor) -> tuple[list[float], list[int]]:
    """The largest of each row `[rows, vocab]` and where it is; NaN counts as larger than all."""
    if logits.device.type != "cpu":
        best, ids = logits.max(dim=-1)
        return best.tolist(), ids.tolist()
    values = logits.numpy()  # many times as fast as torch here
    places = values.argmax(axis=-1)
    return values[np.arange(len(places)), places].tolist(), places.tolist()


def _draw_unfiltered(
    logits: torch.Tensor, state: SamplerState, heat: float, numbers: int
) -> Outcome:
    """Draw from the whole vocabulary, in the order of the ids: no order is needed."""
    weights, best = weigh(logits, heat)
    error = _error(best)
    if error is not None:
        return error
    column = _draw_column(weights.cumsum(dim=-1).numpy(), state, numbers)
    return SampledToken(column, _softmax_top(logits, heat, state.params.num_probs))


def _draw_filtered(
    candidates: Candidates,
    states: Sequence[SamplerState],
    settings: Sequence[Sequence[Settings]],
) -> list[Outcome]:
    """Filter `candidates` `[rows, k]` and draw from the survivors, except in bad rows."""
    errors = [_error(best) for best in candidates.logits[:, 0].tolist()]
    good = [row for row, error in enumerate(errors) if error is None]
    if len(good) < len(errors):
        candidates = _rows(candidates, good)
        states = [states[row] for row in good]
        settings = [settings[row] for row in good]
    drawn = iter(_draw(candidates, states, settings) if good else ())
    return [next(drawn) if error is None else error for error in errors]


def _draw(
    candidates: Candidates,
    states: Sequence[SamplerState],
    settings: Sequence[Sequence[Settings]],
) -> Iterable[SampledToken]:
    survivors = run(candidates, _chains(states), settings)
    probs = probabilities(survivors)  # [rows, k]
    cumulative = cumulate(probs)
    for row, state in enumerate(states):
        column = _draw_column(cumulative[row], state)
        state.learn(float(probs[row, column]))
        count = state.params.num_probs
        listed = _listed(_rows(survivors, [row]), probs[row], count) if count else ()
        yield SampledToken(int(survivors.ids[row, column]), listed)


def _draw_column(cumulative: Numbers, state: SamplerState, numbers: int = FIRST) -> int:
    """A column of `cumulative` weights `[k]`, drawn in proportion to the weights.

    They are inverted at the row's next random number, so that a column without weight is never
    drawn.
    """
    # NOTE: a number below 1 times the last sum stays below that sum in floating point too.
    target = uniform(state.seed, state.index, numbers) * cumulative[-1]
    return int(cumulative.searchsorted(target, side="right"))


def _softmax_top(
    logits: torch.Tensor, temperature: float, num_probs: int
) -> tuple[tuple[int, float], ...]:
    """The `num_probs` best of the softmax of `logits / temperature`, `logits` being `[vocab]`."""
    if num_probs == 0:
        return ()
    found = top_candidates(logits[None], num_probs)
    weights, best = weigh(logits, temperature)
    total = float(weights.sum())
    with np.errstate(over="ignore"):
        probs = np.exp((found.logits[0] - best) / temperature) / total
    return _listed(found, probs, num_probs)


def _listed(found: Candidates, probs: Numbers, count: int) -> tuple[tuple[int, float], ...]:
    """The first `count` pairs of id and probability `[k]`, removed candidates left out."""
    alive = int((found.logits[0, :count] > -math.inf).sum())
    return tuple(zip(found.ids[0, :alive].tolist(), probs[:alive].tolist(), strict=True))


def _rows(candidates: Candidates, rows: list[int]) -> Candidates:
    logits, ids, whole = candidates
    kept = None if whole is None else Whole(*(column[rows] for column in whole))
    return Candidates(logits[rows], ids[rows], kept)
