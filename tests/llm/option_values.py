"""Every option of a completion with two values, for tests that send both.

In: nothing. Out: the table.
"""

from __future__ import annotations

from typing import Any

# Python name: (constructor's value, call's value, wire name).
OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "max_tokens": (7, 5, "n_predict"),
    "temperature": (0.5, 0.0, "temperature"),
    "dynatemp_range": (0.5, 0.0, "dynatemp_range"),
    "dynatemp_exponent": (1.5, 1.0, "dynatemp_exponent"),
    "top_k": (40, 0, "top_k"),
    "top_p": (0.9, 1.0, "top_p"),
    "min_p": (0.1, 0.0, "min_p"),
    "top_n_sigma": (1.5, -1.0, "top_n_sigma"),
    "xtc_probability": (0.5, 0.0, "xtc_probability"),
    "xtc_threshold": (0.1, 0.2, "xtc_threshold"),
    "tfs_z": (0.9, 1.0, "tfs_z"),
    "typical_p": (0.9, 1.0, "typical_p"),
    "min_keep": (1, 0, "min_keep"),
    "repeat_penalty": (1.2, 1.0, "repeat_penalty"),
    "repeat_last_n": (64, 0, "repeat_last_n"),
    "penalize_nl": (True, False, "penalize_nl"),
    "presence_penalty": (0.5, 0.0, "presence_penalty"),
    "frequency_penalty": (0.5, 0.0, "frequency_penalty"),
    "dry_multiplier": (0.5, 0.0, "dry_multiplier"),
    "dry_base": (1.75, 2.0, "dry_base"),
    "dry_allowed_length": (2, 0, "dry_allowed_length"),
    "dry_penalty_last_n": (-1, 0, "dry_penalty_last_n"),
    "dry_sequence_breakers": (["\n"], [], "dry_sequence_breakers"),
    "mirostat": (2, 0, "mirostat"),
    "mirostat_tau": (5.0, 3.0, "mirostat_tau"),
    "mirostat_eta": (0.1, 0.2, "mirostat_eta"),
    "samplers": (["top_k"], [], "samplers"),
    "seed": (42, 0, "seed"),
    "ignore_eos": (True, False, "ignore_eos"),
    "logit_bias": ([[5, 1.0]], [[6, False]], "logit_bias"),
    "n_probs": (2, 1, "n_probs"),
    "post_sampling_probs": (True, False, "post_sampling_probs"),
    "return_tokens": (True, False, "return_tokens"),
    "n_keep": (-1, 0, "n_keep"),
    "grammar": ('root ::= "a"', 'root ::= "b"', "grammar"),
    "json_schema": ({"type": "object"}, {"type": "string"}, "json_schema"),
    "image_data": ([{"data": "aa", "id": 1}], [], "image_data"),
    "system_prompt": ({"prompt": "a"}, {"prompt": "b"}, "system_prompt"),
    "cache_prompt": (True, False, "cache_prompt"),
    "context_shift": (True, False, "context_shift"),
    "slot_id": (3, 0, "slot_id"),
    "max_draft": (3, 0, "speculative.n_max"),
}
