"""The measuring model with that server's arithmetic.

In: nothing. Out: a transformers model whose SiLU and attention go through half-precision numbers,
as the tables of ggml did in December 2023: the argument is rounded, and so is the result.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import AttentionInterface, AutoModelForCausalLM

from tests.engine.conformance.recordings import MODEL


def load_half_precision_model() -> Any:
    """Weights, sums and products stay in single precision."""
    AttentionInterface.register("half_exp", _attention)
    model = AutoModelForCausalLM.from_pretrained(
        MODEL, dtype=torch.float32, attn_implementation="half_exp"
    )
    for layer in model.model.layers:
        layer.mlp.act_fn = HalfSilu()
    return model.eval()


class HalfSilu(torch.nn.Module):
    """`x * sigmoid(x)` with argument and result in half precision. Has no weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _rounded(torch.nn.functional.silu(_rounded(x)))


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # [1, heads, tokens, head_dim]
    key: torch.Tensor,  # [1, kv_heads, tokens, head_dim]
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of one sequence whose softmax takes its exponentials in half precision."""
    shared = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(shared, 1).transpose(2, 3) * scaling
    is_future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    scores = scores.masked_fill(is_future, -math.inf)
    weights = _rounded(_rounded(scores - scores.amax(-1, keepdim=True)).exp())
    weights = weights / weights.sum(-1, keepdim=True)
    mixed = weights @ value.repeat_interleave(shared, 1)
    return mixed.transpose(1, 2).contiguous(), None


def _rounded(x: torch.Tensor) -> torch.Tensor:
    return x.half().float()
