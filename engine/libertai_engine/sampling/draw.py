"""One token for each row of a group of requests that are chosen for in the same way.

In: logits after biases, penalties and masks, and the states of the rows. Out: tokens and errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from libertai_engine.errors import EngineError, GenerationFailed, NoTokenPossible
from libertai_engine.sampling.candidates import Candidates, all_candidates, top_candidates
from libertai_engine.sampling.chain import Chain, Start, run
from libertai_engine.sampling.head import HEAD, head_candidates
from libertai_engine.sampling.state import SampledToken, SamplerState
from libertai_engine.sampling.transforms import probabilities
from libertai_engine.sampling.uniform import uniform

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
    start = chains[0].start
    if start is Start.UNSORTED:
        return _draw_unfiltered(logits, states, numbers)
    if start is Start.BEST:
        width = max(chain.width for chain in chains)
        return _draw_filtered(top_candidates(logits, width), states)
    if start is Start.HEAD and logits.shape[-1] > HEAD:
        return _draw_from_head(logits, states)
    return _draw_filtered(all_candidates(logits), states)


def _chains(states: Sequence[SamplerState]) -> list[Chain]:
    return [state.chain for state in states if state.chain is not None]


def _error(best: float) -> EngineError | None:
    """What is wrong with a row whose largest logit is `best`; NaN anywhere makes that NaN."""
    if math.isnan(best) or best == math.inf:
        return GenerationFailed("the model's logits are not finite numbers")
    return NoTokenPossible() if best == -math.inf else None


def _take_best(logits: torch.Tensor, states: Sequence[SamplerState]) -> list[Outcome]:
    """The largest logit, the lowest id of several equal ones."""
    best, ids = logits.max(dim=-1)
    return [
        _error(value) or SampledToken(token_id, _softmax_top(row, 1.0, state.params.num_probs))
        for value, token_id, row, state in zip(
            best.tolist(), ids.tolist(), logits, states, strict=True
        )
    ]


def _draw_unfiltered(
    logits: torch.Tensor, states: Sequence[SamplerState], numbers: int
) -> list[Outcome]:
    """Draw from the whole vocabulary, in the order of the ids: no order is needed."""
    values = logits.cpu().double()
    best = values.amax(dim=-1, keepdim=True)
    heats = [chain.heat for chain in _chains(states)]
    heat = torch.tensor(heats, dtype=torch.float64)[:, None]
    columns = _draw_columns(((values - best) / heat).exp(), states, numbers)
    return [
        _error(value) or SampledToken(column, _softmax_top(row, each_heat, state.params.num_probs))
        for value, column, row, each_heat, state in zip(
            best.flatten().tolist(), columns.flatten().tolist(), logits, heats, states, strict=True
        )
    ]


def _draw_from_head(logits: torch.Tensor, states: Sequence[SamplerState]) -> list[Outcome]:
    """Draw from the best few tokens where they are sure to suffice, else from the sorted whole."""
    head, is_enough = head_candidates(logits, _chains(states))
    outcomes: dict[int, Outcome] = {}
    for enough in (True, False):
        rows = (is_enough == enough).nonzero().flatten().tolist()
        if rows:
            found = _rows(head, rows) if enough else all_candidates(logits[rows])
            chosen = _draw_filtered(found, [states[row] for row in rows])
            outcomes.update(zip(rows, chosen, strict=True))
    return [outcomes[row] for row in range(len(states))]


def _draw_filtered(candidates: Candidates, states: Sequence[SamplerState]) -> list[Outcome]:
    """Filter `candidates` `[rows, k]` and draw from the survivors, except in bad rows."""
    errors = [_error(best) for best in candidates.logits[:, 0].tolist()]
    good = [row for row, error in enumerate(errors) if error is None]
    if len(good) < len(errors):
        candidates = _rows(candidates, good)
    members = [states[row] for row in good]
    drawn = iter(_draw(candidates, members) if good else ())
    return [next(drawn) if error is None else error for error in errors]


def _draw(candidates: Candidates, states: Sequence[SamplerState]) -> Iterable[SampledToken]:
    survivors = run(candidates, _chains(states), [state.settings() for state in states])
    probs = probabilities(survivors.logits)  # [rows, k]
    columns = _draw_columns(probs, states)  # [rows, 1]
    ids = survivors.ids.gather(-1, columns).flatten().tolist()
    chances = probs.gather(-1, columns).flatten().tolist()
    for row, (state, token_id, chance) in enumerate(zip(states, ids, chances, strict=True)):
        state.learn(chance)
        count = state.params.num_probs
        listed = _listed(_rows(survivors, row), probs[row], count) if count else ()
        yield SampledToken(token_id, listed)


def _draw_columns(
    weights: torch.Tensor, states: Sequence[SamplerState], numbers: int = FIRST
) -> torch.Tensor:
    """A column `[rows, 1]` for each row of `weights` `[rows, k]`, drawn in proportion to them.

    The cumulative weights are inverted at the row's next random number, so that a column without
    weight is never drawn.
    """
    cumulative = weights.cumsum(dim=-1)
    drawn = [[uniform(state.seed, state.index, numbers)] for state in states]
    # NOTE: a number below 1 times the last sum stays below that sum in floating point too.
    targets = torch.tensor(drawn, dtype=torch.float64) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True)


def _softmax_top(
    logits: torch.Tensor, temperature: float, num_probs: int
) -> tuple[tuple[int, float], ...]:
    """The `num_probs` best of the softmax of `logits / temperature`, `logits` being `[vocab]`."""
    if num_probs == 0:
        return ()
    found = top_candidates(logits[None], num_probs)
    best = found.logits[0, 0]
    # NOTE: a sum in the order of the ids, not in a tree: the same bits in any batch.
    total = ((logits.cpu().double() - best) / temperature).exp().cumsum(dim=-1)[-1]
    probs = ((found.logits[0] - best) / temperature).exp() / total
    return _listed(_rows(found, 0), probs, num_probs)


def _listed(found: Candidates, probs: torch.Tensor, count: int) -> tuple[tuple[int, float], ...]:
    """The first `count` pairs of id and probability `[k]`, removed candidates left out."""
    alive = int((found.logits[:count] > -math.inf).sum())
    return tuple(zip(found.ids[:alive].tolist(), probs[:alive].tolist(), strict=True))


def _rows(candidates: Candidates, rows: int | list[int]) -> Candidates:
    return Candidates(candidates.logits[rows], candidates.ids[rows])
