"""llama.cpp's sampler chain on the same logits as ours.

In: how the token is chosen. Out: microseconds a token. Its candidates are written anew for each
token, as `llama_sampler_sample` does it.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np

from speed.sides.base import Load
from speed.sides.sampler import VOCABULARY, some_logits, timed

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class LlamaCppSampler:
    """Chains of its C functions."""

    def load(self, load: Load) -> dict[str, str]:
        """It has one thread."""
        return {"version": llama_cpp.__version__}

    def measure(self, way: str) -> float:
        """Microseconds a token."""
        chain = self._chain(way)
        rows = some_logits().numpy()
        candidates = np.zeros(VOCABULARY, CANDIDATE)
        ids = np.arange(VOCABULARY, dtype=np.int32)
        kind = ctypes.POINTER(llama_cpp.llama_token_data)

        def choose(number: int) -> None:
            candidates["id"], candidates["logit"] = ids, rows[number % len(rows)]
            data = candidates.ctypes.data_as(kind)
            array = llama_cpp.llama_token_data_array(
                data=data, size=VOCABULARY, selected=-1, sorted=False
            )
            llama_cpp.llama_sampler_apply(chain, ctypes.byref(array))
            llama_cpp.llama_sampler_accept(chain, array.data[array.selected].id)

        return timed(choose)

    def _chain(self, way: str) -> Any:
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        parts = {
            "greedy": [llama_cpp.llama_sampler_init_greedy()],
            "all filters": [
                llama_cpp.llama_sampler_init_penalties(VOCABULARY, 64, 1.1, 0.0, 0.0),
                llama_cpp.llama_sampler_init_top_k(40),
                llama_cpp.llama_sampler_init_top_p(0.95, 1),
                llama_cpp.llama_sampler_init_min_p(0.05, 1),
                llama_cpp.llama_sampler_init_temp(0.8),
                llama_cpp.llama_sampler_init_dist(7),
            ],
            "no filter": [llama_cpp.llama_sampler_init_dist(7)],
        }
        for part in parts[way]:
            llama_cpp.llama_sampler_chain_add(chain, part)
        return chain

    def close(self) -> None:
        """Nothing is held."""
