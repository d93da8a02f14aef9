"""Settings to a chain: which filters a request needs, in llama.cpp's order, and how they run.

In: `SamplingParams`; later candidates. Out: a `Chain`, a list of filters with one setting each, in
which steps that would change nothing are left out; later the candidates that survive it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import torch

from libertai_engine.sampling import transforms
from libertai_engine.sampling.candidates import Candidates
from libertai_engine.sampling.mirostat import mirostat_1, mirostat_2
from libertai_engine.sampling_params import SamplingParams

Filter = Callable[[Candidates, torch.Tensor, torch.Tensor], Candidates]
WIDEST = 1024  # a larger top_k is cut from the sorted vocabulary


class Start(Enum):
    """Which candidates a chain has to begin with, from cheap to dear."""

    BEST = "the best top_k"
    HEAD = "the best few, if the first filter cuts among them"
    UNSORTED = "all, in any order: nothing is filtered"
    SORTED = "all, sorted"


@dataclass(frozen=True, slots=True)
class Chain:
    """How one request narrows its candidates.

    `filters` and `settings` have the same length; `width` candidates are enough to begin with if
    `start` is `Start.BEST`; every filter leaves at least `min_keep`.
    """

    filters: tuple[Filter, ...]
    settings: tuple[float, ...]
    start: Start
    width: int
    min_keep: int

    @property
    def kind(self) -> tuple[Start, tuple[Filter, ...]]:
        """Rows with chains of one kind run together."""
        return self.start, self.filters


def build_chain(params: SamplingParams) -> Chain:
    """The chain of a request that is not greedy.

    The last setting of a mirostat chain is `mu` at its start, twice the target.
    """
    steps = [(step, setting) for step, setting, is_needed in _steps(params) if is_needed]
    filters = tuple(step for step, _ in steps)
    min_keep = max(1, params.num_probs)
    width = max(params.top_k, min_keep)
    settings = tuple(float(setting) for _, setting in steps)
    return Chain(filters, settings, _start(filters, width), width, min_keep)


def _steps(params: SamplingParams) -> Sequence[tuple[Filter, float, bool]]:
    heat = (transforms.temperature, params.temperature, params.temperature != 1)
    if params.mirostat:
        mirostat = mirostat_1 if params.mirostat == 1 else mirostat_2
        return heat, (mirostat, 2 * params.mirostat_tau, True)
    return (
        (transforms.top_k, params.top_k, params.top_k > 0),
        (transforms.tail_free, params.tfs_z, params.tfs_z < 1),
        (transforms.typical, params.typical_p, params.typical_p < 1),
        (transforms.top_p, params.top_p, params.top_p < 1),
        (transforms.min_p, params.min_p, params.min_p > 0),
        heat,
    )


def _start(filters: Sequence[Filter], width: int) -> Start:
    if all(step is transforms.temperature for step in filters):
        return Start.UNSORTED
    if filters[0] in (transforms.top_p, transforms.min_p):
        return Start.HEAD
    if filters[0] is transforms.top_k and width <= WIDEST:
        return Start.BEST
    return Start.SORTED


def run(
    candidates: Candidates, chains: Sequence[Chain], settings: Sequence[Sequence[float]]
) -> Candidates:
    """The survivors; row i belongs to `chains[i]`, all of one kind, with `settings[i]`."""
    min_keep = torch.tensor([[chain.min_keep] for chain in chains])  # [rows, 1]
    values = torch.tensor(settings, dtype=torch.float64)  # [rows, steps]
    for index, step in enumerate(chains[0].filters):
        candidates = step(candidates, values[:, index : index + 1], min_keep)
    return candidates
