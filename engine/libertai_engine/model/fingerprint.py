"""A name for a model's keys and values: equal only if lanes can be exchanged.

In: a transformers model. Out: a hex digest over settings, precision, shapes and samples of all
weights.
"""

from __future__ import annotations

import hashlib
import json

import torch
from transformers import PreTrainedModel

_SAMPLES = 16  # of each tensor; two models that differ at all differ nearly everywhere
_ORIGIN = frozenset({"_name_or_path", "transformers_version", "architectures", "dtype"})


def fingerprint(module: PreTrainedModel, context_size: int) -> str:
    """SHA-256 over what decides what a key means.

    The context size is in it because some rotary frequencies hang on it.
    """
    digest = hashlib.sha256()
    for name, weights in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(weights.shape)} {weights.dtype}".encode())
        digest.update(_sample(weights))
    digest.update(f"{_settings(module)} {context_size}".encode())
    return digest.hexdigest()


def _settings(module: PreTrainedModel) -> str:
    """The configuration, rotations and norms among it, without where it comes from."""
    settings = module.config.get_text_config().to_dict()
    told = {name: each for name, each in settings.items() if name not in _ORIGIN}
    return json.dumps(told, sort_keys=True, default=str)


def _sample(weights: torch.Tensor) -> bytes:
    flat = weights.detach().flatten()
    step = max(1, flat.numel() // _SAMPLES)
    return flat[::step][:_SAMPLES].float().cpu().numpy().tobytes()
