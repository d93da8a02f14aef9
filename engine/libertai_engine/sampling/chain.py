"""Settings to a chain: which filters a request needs, in llama.cpp's order.

In: `SamplingParams`. Out: a `Chain`, a list of filters with one setting each; steps that would
change nothing are not in it. Requests with the same filters run through them together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from libertai_engine.sampling import transforms
from libertai_engine.sampling.candidates import Candidates, all_candidates, top_candidates
from libertai_engine.sampling.mirostat import mirostat_1, mirostat_2
from libertai_engine.sampling_params import SamplingParams

Filter = Callable[[Candidates, torch.Tensor, torch.Tensor], Candidates]
WIDEST = 1024  # with more candidates than this the whole vocabulary is sorted at once


@dataclass(frozen=True, slots=True)
class Chain:
    """How one request narrows its candidates.

    `filters` and `settings` have the same length. `width` candidates are enough to begin with
    (None: the whole vocabulary is needed); every filter leaves at least `min_keep`.
    """

    filters: tuple[Filter, ...]
    settings: tuple[float, ...]
    width: int | None
    min_keep: int

    @property
    def kind(self) -> tuple[bool, tuple[Filter, ...]]:
        """Chains of one kind may run together."""
        return self.width is None, self.filters


def build_chain(params: SamplingParams) -> Chain:
    """The chain of a request that is not greedy.

    The last setting of a mirostat chain is `mu` at its start, twice the target.
    """
    min_keep = max(1, params.num_probs)
    if params.mirostat:
        mirostat = mirostat_1 if params.mirostat == 1 else mirostat_2
        settings = (params.temperature, 2 * params.mirostat_tau)
        return Chain((transforms.temperature, mirostat), settings, None, min_keep)
    steps = [(step, setting) for step, setting, is_needed in _steps(params) if is_needed]
    width = max(params.top_k, min_keep) if params.top_k > 0 else None
    return Chain(
        filters=tuple(step for step, _ in steps),
        settings=tuple(setting for _, setting in steps),
        width=width if width is not None and width <= WIDEST else None,
        min_keep=min_keep,
    )


def _steps(params: SamplingParams) -> Sequence[tuple[Filter, float, bool]]:
    return (
        (transforms.top_k, params.top_k, params.top_k > 0),
        (transforms.tail_free, params.tfs_z, params.tfs_z < 1),
        (transforms.typical, params.typical_p, params.typical_p < 1),
        (transforms.top_p, params.top_p, params.top_p < 1),
        (transforms.min_p, params.min_p, params.min_p > 0),
        (transforms.temperature, params.temperature, params.temperature != 1),
    )


def first_candidates(logits: torch.Tensor, chains: Sequence[Chain]) -> Candidates:
    """The candidates that chains of one kind begin with, for `logits` `[rows, vocab]`."""
    widths = [chain.width for chain in chains if chain.width is not None]
    return top_candidates(logits, max(widths)) if widths else all_candidates(logits)


def run(
    candidates: Candidates, chains: Sequence[Chain], settings: Sequence[Sequence[float]]
) -> Candidates:
    """Candidates that survive; row i belongs to `chains[i]`, of one kind, with `settings[i]`."""
    min_keep = torch.tensor([[chain.min_keep] for chain in chains])  # [rows, 1]
    values = torch.tensor(settings, dtype=torch.float64)  # [rows, steps]
    for index, step in enumerate(chains[0].filters):
        candidates = step(candidates, values[:, index : index + 1], min_keep)
    return candidates
