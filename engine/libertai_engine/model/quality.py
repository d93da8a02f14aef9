"""What fewer bits cost: how a model reads a fixed text before and after.

In: a transformers model on slot lanes, the ids of a text. Out: `Quality`: two perplexities, and how
far the model's predictions have moved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.kv_cache import KVCache
from libertai_engine.model.packing import pack
from libertai_engine.model.runner import evaluate

TEXT = Path(__file__).with_name("quality_text.txt")
MAX_TOKENS = 512
BOUNDS = {"int8": 0.01, "int4": 0.08}
"""How much the perplexity of a trained model may rise: more is told as a warning."""

_PIECE = 64  # tokens of one forward pass, after each of which the time is looked at
_KEPT_BYTES = 64 << 20  # predictions that are kept to be compared


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A model's predictions of a text: -log p of each token, and all of the first of them.

    `log_probs` are `[kept, vocab]` float32; a perplexity is exp(mean of -log p).
    """

    surprises: tuple[float, ...]
    log_probs: Tensor

    @property
    def perplexity(self) -> float:
        """Of all tokens that were read."""
        return math.exp(sum(self.surprises) / len(self.surprises))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """The perplexity of the text's first `num_tokens` tokens before and after.

    `divergence` is exp(KL) - 1, where KL is the mean distance from the old predictions to the new
    ones: by so much would the perplexity rise on texts that the old model wrote. It is never
    negative, while the perplexity of a text that a model does not understand may even fall.
    """

    before: float
    after: float
    divergence: float
    num_tokens: int

    @property
    def rise(self) -> float:
        """How much the perplexity rose; 0.01 is one in a hundred."""
        return self.after / self.before - 1

    def __str__(self) -> str:
        """In a line."""
        return (
            f"perplexity {self.before:.4g} -> {self.after:.4g} ({self.rise:+.2%}) on "
            f"{self.num_tokens} tokens, divergence {self.divergence:.2%}"
        )


def text_ids(tokenizer: PreTrainedTokenizerFast, context_size: int) -> list[int]:
    """The beginning of the text as this model reads it, no longer than its context."""
    ids: list[int] = tokenizer(TEXT.read_text(encoding="utf-8")).input_ids
    return ids[: min(MAX_TOKENS, context_size)]


def read(module: PreTrainedModel, ids: Sequence[int], *, seconds: float = math.inf) -> Reading:
    """Predict `ids[1:]`, or as many of them as `seconds` are enough for; `ids` are two at least."""
    end = time.monotonic() + seconds
    cache = KVCache(num_slots=1, context_size=len(ids))
    surprises: list[float] = []
    kept, num_kept = torch.empty(0), 0
    for start in range(0, len(ids) - 1, _PIECE):
        log_probs = _predict(module, cache, start, ids[start : min(start + _PIECE, len(ids) - 1)])
        targets = torch.tensor(ids[start + 1 : start + 1 + len(log_probs)], device=module.device)
        surprises += cross_entropy(log_probs, targets, reduction="none").tolist()
        if not num_kept:
            room = max(1, _KEPT_BYTES // log_probs[0].nbytes)
            kept = log_probs.new_empty(min(room, len(ids) - 1), log_probs.shape[1])
        some = log_probs[: len(kept) - num_kept]
        kept[num_kept : num_kept + len(some)] = some
        num_kept += len(some)
        if time.monotonic() > end:
            break
    return Reading(tuple(surprises), kept[:num_kept])


def _predict(module: PreTrainedModel, cache: KVCache, start: int, ids: Sequence[int]) -> Tensor:
    """Log-probabilities `[ids, vocab]` behind each of `ids`, which begin at position `start`."""
    packed = pack(Batch((Row(0, start, tuple(ids), len(ids)),)), module.device)
    return evaluate(module, cache, packed).float().log_softmax(-1)


def compare(before: Reading, module: PreTrainedModel, ids: Sequence[int]) -> Quality:
    """Let the module read what the reading `before` has read. Raises nothing of its own."""
    after = read(module, ids[: len(before.surprises) + 1])
    count = min(len(before.log_probs), len(after.log_probs))
    old, new = before.log_probs[:count], after.log_probs[:count]
    # `kl_div` in a third of its memory: sum(p log(p / q)) / count, where `new` is not needed again.
    distance = old.exp().mul_(torch.sub(old, new, out=new)).sum() / count
    return Quality(
        before=before.perplexity,
        after=after.perplexity,
        divergence=math.expm1(max(0.0, float(distance))),
        num_tokens=len(after.surprises),
    )
