"""The one table of wire names for sampler settings.

In: nothing. Out: `SAMPLING`, read when a request is parsed and when its settings are echoed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from libertai_engine.wire.coerce import to_bool, to_float, to_int, to_seed

# Wire name -> (name in SamplingParams, conversion).
SAMPLING: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "temperature": ("temperature", to_float),
    "top_k": ("top_k", to_int),
    "top_p": ("top_p", to_float),
    "min_p": ("min_p", to_float),
    "tfs_z": ("tfs_z", to_float),
    "typical_p": ("typical_p", to_float),
    "repeat_penalty": ("repeat_penalty", to_float),
    "repeat_last_n": ("penalty_window", to_int),
    "penalize_nl": ("penalize_newline", to_bool),
    "presence_penalty": ("presence_penalty", to_float),
    "frequency_penalty": ("frequency_penalty", to_float),
    "mirostat": ("mirostat", to_int),
    "mirostat_tau": ("mirostat_tau", to_float),
    "mirostat_eta": ("mirostat_eta", to_float),
    "seed": ("seed", to_seed),
    "ignore_eos": ("ignore_eos", to_bool),
    "n_probs": ("num_probs", to_int),
}
WIRE_NAMES = {inner: wire for wire, (inner, _) in SAMPLING.items()}
