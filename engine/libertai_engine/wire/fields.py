"""The one table of wire names for sampler settings.

In: nothing. Out: `SAMPLING`, read when a request is parsed and when its settings are echoed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from libertai_engine.sampling_params import SAMPLERS
from libertai_engine.wire.coerce import to_bool, to_float, to_int, to_seed, to_strings, wrong

LETTERS = dict(zip("edskfypmxt", SAMPLERS, strict=True))
OTHER_NAMES = {"typical_p": "typ_p", "typ": "typ_p", "nucleus": "top_p", "temp": "temperature"}
KNOWN_NAMES = {name: name for name in SAMPLERS} | OTHER_NAMES


def to_samplers(name: str, value: Any) -> tuple[str, ...]:
    """Names of samplers in the order in which they run, or a letter for each of them.

    A name may be written with `-` for `_`, or without; `typ_p`, `top_p` and `temperature` have
    other names, too.
    """
    if isinstance(value, str):
        return tuple(_sampler(name, letter, LETTERS) for letter in value)
    spelled = {known.replace("_", mark): known for known in KNOWN_NAMES for mark in ("_", "-", "")}
    table = {spelling: KNOWN_NAMES[known] for spelling, known in spelled.items()}
    return tuple(_sampler(name, each.lower(), table) for each in to_strings(name, value))


def _sampler(name: str, given: str, table: dict[str, str]) -> str:
    if given not in table:
        raise wrong(name, f"made of {', '.join(SAMPLERS)}, or of the letters {''.join(LETTERS)}")
    return table[given]


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
    "samplers": ("samplers", to_samplers),
    "min_keep": ("min_keep", to_int),
    "dynatemp_range": ("dynatemp_range", to_float),
    "dynatemp_exponent": ("dynatemp_exponent", to_float),
    "top_n_sigma": ("top_n_sigma", to_float),
    "xtc_probability": ("xtc_probability", to_float),
    "xtc_threshold": ("xtc_threshold", to_float),
    "dry_multiplier": ("dry_multiplier", to_float),
    "dry_base": ("dry_base", to_float),
    "dry_allowed_length": ("dry_allowed_length", to_int),
    "dry_penalty_last_n": ("dry_window", to_int),
    "dry_sequence_breakers": ("dry_breakers", to_strings),
}
WIRE_NAMES = {inner: wire for wire, (inner, _) in SAMPLING.items()}
