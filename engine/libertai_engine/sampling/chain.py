"""Settings to a chain: which filters a request needs, in llama.cpp's order, and how they run.

In: `SamplingParams`; later candidates. Out: a `Chain`, a list of filters with their settings, in
which steps that would change nothing are left out; later the candidates that survive it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from libertai_engine.sampling import transforms
from libertai_engine.sampling.candidates import Candidates, Numbers
from libertai_engine.sampling.cut import first_cutter
from libertai_engine.sampling.mirostat import first_mu, mirostat_1, mirostat_2
from libertai_engine.sampling.transforms import Counts
from libertai_engine.sampling_params import SamplingParams

Settings = tuple[float, ...]
Filter = Callable[[Candidates, Numbers, Counts], Candidates]


class Start(Enum):
    """Which candidates a chain has to begin with, from cheap to dear."""

    BEST = "the best top_k"
    CUT = "those that the first filter cannot but keep"
    UNSORTED = "all, in any order: nothing is filtered"
    SORTED = "all, sorted"


@dataclass(frozen=True, slots=True)
class Chain:
    """How one request narrows its candidates.

    `filters` and `settings` have the same length; `width` candidates are enough to begin with if
    `start` is `Start.BEST`; every filter leaves at least `min_keep`.
    """

    filters: tuple[Filter, ...]
    settings: tuple[Settings, ...]
    start: Start
    width: int
    min_keep: int

    @property
    def kind(self) -> tuple[Start, tuple[Filter, ...]]:
        """Rows with chains of one kind run together."""
        return self.start, self.filters

    @property
    def heat(self) -> float:
        """The temperature of a chain that does nothing else; several of them are multiplied."""
        assert self.start is Start.UNSORTED
        heat = math.prod(heat for (heat,) in self.settings)
        return min(max(heat, sys.float_info.min), sys.float_info.max)


def build_chain(params: SamplingParams) -> Chain:
    """The chain of a request that is not greedy.

    The last setting of a mirostat chain is `mu` at its start, twice the target.
    """
    steps = [(step, settings) for step, settings, is_needed in _steps(params) if is_needed]
    filters = tuple(step for step, _ in steps)
    min_keep = max(1, params.num_probs, params.min_keep)
    width = max(params.top_k, min_keep)
    settings = tuple(tuple(float(each) for each in settings) for _, settings in steps)
    return Chain(filters, settings, _start(filters), width, min_keep)


def _steps(params: SamplingParams) -> Sequence[tuple[Filter, Settings, bool]]:
    heat = (transforms.temperature, (params.temperature,), params.temperature != 1)
    if params.mirostat:
        mirostat = mirostat_1 if params.mirostat == 1 else mirostat_2
        return heat, (mirostat, (first_mu(params.mirostat_tau),), True)
    known: dict[str, tuple[Filter, Settings, bool]] = {
        "top_n_sigma": (transforms.top_n_sigma, (params.top_n_sigma,), params.top_n_sigma > 0),
        "top_k": (transforms.top_k, (params.top_k,), params.top_k > 0),
        "tfs_z": (transforms.tail_free, (params.tfs_z,), params.tfs_z < 1),
        "typ_p": (transforms.typical, (params.typical_p,), params.typical_p < 1),
        "top_p": (transforms.top_p, (params.top_p,), params.top_p < 1),
        "min_p": (transforms.min_p, (params.min_p,), params.min_p > 0),
        "xtc": (transforms.xtc, (params.xtc_threshold,), _excludes_choices(params)),
        "temperature": _dynamic_heat(params) if params.dynatemp_range > 0 else heat,
    }
    return [known[name] for name in params.samplers if name in known]


def _excludes_choices(params: SamplingParams) -> bool:
    # Two tokens cannot both have more than half of the probability.
    return params.xtc_probability > 0 and params.xtc_threshold <= 0.5


def _dynamic_heat(params: SamplingParams) -> tuple[Filter, Settings, bool]:
    low = max(0.0, params.temperature - params.dynatemp_range)
    high = min(params.temperature + params.dynatemp_range, sys.float_info.max)
    return transforms.dynamic_temperature, (low, high, params.dynatemp_exponent), True


def _start(filters: Sequence[Filter]) -> Start:
    if all(step is transforms.temperature for step in filters):
        return Start.UNSORTED
    if filters[0] is transforms.top_k:
        return Start.BEST
    return Start.SORTED if first_cutter(filters) is None else Start.CUT


def run(
    candidates: Candidates, chains: Sequence[Chain], settings: Sequence[Sequence[Settings]]
) -> Candidates:
    """The survivors; row i belongs to `chains[i]`, all of one kind, with `settings[i]`."""
    min_keep = np.array([[chain.min_keep] for chain in chains])  # [rows, 1]
    for index, step in enumerate(chains[0].filters):
        values = np.array([row[index] for row in settings])
        candidates = step(candidates, values, min_keep)  # values: [rows, settings of the step]
    return candidates
