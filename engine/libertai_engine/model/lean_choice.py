"""Whether a model's small steps run natively; the reason where they do not.

In: the wish of `EngineConfig.kernels`, and a module whose lanes exist. Out: a `LeanDecoder` on
these lanes, or `Unavailable` with the reason. Wrong answers are ruled out by `lean_proof`.
"""

from __future__ import annotations

import logging

import torch
from transformers import PreTrainedModel

from libertai_engine.config import Kernels
from libertai_engine.kernels.library import Library, Unavailable, choose
from libertai_engine.model.decoder_parts import take_apart
from libertai_engine.model.decoder_questions import NotLean
from libertai_engine.model.kv_cache import KVCache
from libertai_engine.model.lean import LeanDecoder
from libertai_engine.model.lean_proof import begin, prove
from libertai_engine.model.shift import Evaluate

logger = logging.getLogger(__name__)


def choose_library(device: torch.device, kernels: Kernels) -> Library | Unavailable:
    """The native library, if `kernels` wishes for it and it is for this device.

    Raises `ModelLoadError` where it is asked for by name and cannot be had.
    """
    return choose(kernels) if device.type == "cpu" else Unavailable("native kernels are for CPUs")


def choose_decoder(
    module: PreTrainedModel,
    cache: KVCache,
    evaluate: Evaluate,
    library: Library | Unavailable,
) -> LeanDecoder | Unavailable:
    """The native step of `module` on the lanes of `cache`, if it has proved itself."""
    if isinstance(library, Unavailable):
        return library
    try:
        return _make(module, library, cache, evaluate)
    except NotLean as reason:
        told = str(reason)
    except Exception as error:  # NOTE: any module may come here; its own forward pass works
        told = f"{type(error).__name__}: {error}"
    logger.info("small steps run in transformers' module: %s", told)
    return Unavailable(told)


def _make(
    module: PreTrainedModel, library: Library, cache: KVCache, evaluate: Evaluate
) -> LeanDecoder:
    begun = begin(module, evaluate)
    parts = take_apart(module, begun.manners, cache.context_size)
    prove(begun, library, parts, evaluate)
    return LeanDecoder(library, parts, cache.lanes)
