"""A PyTorch engine for the llama-like API: load a model, submit requests, read streams.

In: `load_engine("demo")`. Out: an `Engine`; see `libertai_engine.engine`. Names that need torch
are imported when they are first used, so that `libertai-engine --help` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from libertai_engine.config import EmbeddingConfig, EngineConfig, ServerConfig
from libertai_engine.errors import (
    ContextOverflow,
    EngineError,
    EngineUnavailable,
    GenerationFailed,
    InvalidRequest,
    ModelLoadError,
    NotSupported,
)
from libertai_engine.sampling_params import SamplingParams
from libertai_engine.startup import import_large

if TYPE_CHECKING:
    from libertai_engine.api import CompletionAPI
    from libertai_engine.embeddings import Embedder, load_embedder
    from libertai_engine.engine import Engine, load_engine
    from libertai_engine.sequence import Delta, Finish, FinishReason, Request
    from libertai_engine.stream import Stream

_LAZY = {
    "CompletionAPI": "libertai_engine.api",
    "Embedder": "libertai_engine.embeddings",
    "load_embedder": "libertai_engine.embeddings",
    "Engine": "libertai_engine.engine",
    "load_engine": "libertai_engine.engine",
    "Delta": "libertai_engine.sequence",
    "Finish": "libertai_engine.sequence",
    "FinishReason": "libertai_engine.sequence",
    "Request": "libertai_engine.sequence",
    "Stream": "libertai_engine.stream",
}

__all__ = [
    "CompletionAPI",
    "ContextOverflow",
    "Delta",
    "Embedder",
    "EmbeddingConfig",
    "Engine",
    "EngineConfig",
    "EngineError",
    "EngineUnavailable",
    "Finish",
    "FinishReason",
    "GenerationFailed",
    "InvalidRequest",
    "ModelLoadError",
    "NotSupported",
    "Request",
    "SamplingParams",
    "ServerConfig",
    "Stream",
    "load_embedder",
    "load_engine",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_large(_LAZY[name]), name)
