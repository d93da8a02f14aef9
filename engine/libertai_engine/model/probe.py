"""Does this model work on slot lanes? Found out by running it, not by its name.

In: a loaded transformers model. Out: nothing, or a `ModelLoadError` that says what does not fit.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from libertai_engine.errors import ModelLoadError
from libertai_engine.model.attention import UnsupportedAttention, use_slot_lanes
from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.kv_cache import KVCache
from libertai_engine.model.packing import pack
from libertai_engine.model.runner import evaluate

_TOKENS = (1, 2, 3, 4, 5, 6)
_NEIGHBOUR = (7, 8, 9)


def check_model(module: PreTrainedModel) -> None:
    """Raise `ModelLoadError` unless rows of a batch are independent and resumable.

    A handful of tokens is evaluated in one piece, and in two pieces next to another row. Models
    with recurrent states, position biases, cross attention or an attention of their own either
    fail here or give two different answers.
    """
    use_slot_lanes(module)
    try:
        whole, pieces = _both_ways(module)
    except Exception as error:
        raise ModelLoadError(
            f"{_name(module)} cannot run here: {type(error).__name__}: {error}"
        ) from error
    if torch.isnan(whole).any() or torch.isnan(pieces).any():
        raise ModelLoadError(
            f"{_name(module)} answers with NaN: broken weights, or not for {module.dtype}"
        )
    apart = difference(whole, pieces)
    if apart > tolerance(module.dtype):
        raise ModelLoadError(
            f"{_name(module)} cannot run here: it does not keep the requests of one batch apart "
            f"(relative difference {apart:.2g})"
        )


def _both_ways(module: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `[vocab]` behind the last token, evaluated in one piece and in two."""
    cache = KVCache(num_slots=4, context_size=16)
    # NOTE: slot 0 stays unused, so that a model which skips the cache cannot hit it by chance.
    whole = _run(module, cache, Row(1, 0, _TOKENS, 1))
    _run(module, cache, Row(3, 0, _NEIGHBOUR[:2], 0), Row(2, 0, _TOKENS[:-1], 0))
    last = Row(2, len(_TOKENS) - 1, _TOKENS[-1:], 1)
    pieces = _run(module, cache, last, Row(3, 2, _NEIGHBOUR[2:], 0))
    return whole[0], pieces[0]


def _run(module: PreTrainedModel, cache: KVCache, *rows: Row) -> torch.Tensor:
    packed = pack(Batch(rows), module.device)
    logits = evaluate(module, cache, packed).float()
    if not packed.attended:
        raise UnsupportedAttention("attention of its own")
    if not 0 < cache.num_layers <= len(packed.attended):
        raise UnsupportedAttention("layers without keys and values that can be kept")
    return logits


def difference(whole: torch.Tensor, pieces: torch.Tensor) -> float:
    """Distance of two rows of logits, relative to how far they spread; -inf bans are left out."""
    finite = whole.isfinite() & pieces.isfinite()
    spread = (whole[finite] - whole[finite].mean()).norm()
    return float((whole[finite] - pieces[finite]).norm() / spread.clamp_min(1e-6))


def tolerance(dtype: torch.dtype) -> float:
    """Largest `difference` between two ways to the same logits.

    Rounding stays far below it (1e-6 and 1e-2 are usual); a model that forgets or mixes rows is of
    the order of 1.
    """
    return 0.01 if dtype == torch.float32 else 0.3


def _name(module: PreTrainedModel) -> str:
    return f"model type `{module.config.model_type}`"
