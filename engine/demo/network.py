"""The forward pass in training. In: a transformers Llama and a packed pass. Out: losses.

It computes what `LlamaForCausalLM` computes, with half the work for a CPU: documents lie one after
the other without padding, weights and activations are bf16 over fp32 masters, rows of like length
share their attention, what lies between two attentions is compiled, and logits exist where learned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from batches import IGNORED, Pass

Tensor = torch.Tensor
Compiled = Callable[..., Tensor]


def _norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    wide = x.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return (wide * scale * weight).to(x.dtype)


def _turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate the halves of each head against each other: [tokens, heads, head_dim]."""
    wide = x.float()
    first, second = wide.chunk(2, -1)
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)
    return turned.to(x.dtype)


def _project(
    x: Tensor, norm: Tensor, weight: Tensor, turn: tuple[Tensor, Tensor], shape: tuple[int, int]
) -> Tensor:
    """Return queries, keys and values: [tokens, heads + 2 * kv_heads, head_dim]."""
    heads, width = shape
    made = functional.linear(_norm(x, norm, 1e-6), weight).view(x.shape[0], -1, width)
    turning = heads + (made.shape[1] - heads) // 2
    return torch.cat([_turn(made[:, :turning], *turn), made[:, turning:]], 1)


def _finish(
    x: Tensor, attended: Tensor, norm: Tensor, weights: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Add what attention found, and then what the feed-forward network makes of it."""
    out, gate_up, down = weights
    x = x + functional.linear(attended, out)
    gate, up = functional.linear(_norm(x, norm, 1e-6), gate_up).chunk(2, -1)
    return x + functional.linear(functional.silu(gate) * up, down)


@cache
def _mask(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    hidden = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
    zeros = torch.zeros(length, length, dtype=dtype, device=device)
    return zeros.masked_fill(hidden, float("-inf"))


def _attend(made: Tensor, rows: int, length: int, heads: int) -> Tensor:
    """Causal attention of `rows` documents of one length: [rows * length, heads * head_dim]."""
    kv = (made.shape[1] - heads) // 2
    width, group = made.shape[2], heads // kv
    shaped = made.view(rows, length, -1, width)
    query, key, value = shaped.split([heads, kv, kv], 2)
    query = (query * width**-0.5).view(rows, length, kv, group, width).permute(0, 2, 3, 1, 4)
    key, value = (each.transpose(1, 2).reshape(rows * kv, length, width) for each in (key, value))
    scores = torch.bmm(query.reshape(rows * kv, group * length, width), key.transpose(1, 2))
    scores = scores.view(-1, length, length) + _mask(length, made.dtype, made.device)
    shares = scores.softmax(-1).view(rows * kv, group * length, length)
    found = torch.bmm(shares, value).view(rows, kv, group, length, width)
    return found.permute(0, 3, 1, 2, 4).reshape(rows * length, heads * width)


class Network:
    """A Llama that learns packed passes. Invariant: computes what the model itself computes."""

    def __init__(self, model: LlamaForCausalLM, *, bf16: bool, compiled: bool = True) -> None:
        self.model = model
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        self.device = model.device
        project, finish = _project, _finish
        if compiled:
            project = torch.compile(_project, dynamic=False)
            finish = torch.compile(_finish, dynamic=False)
        self.project: Compiled = project
        self.finish: Compiled = finish

    def losses(self, given: Pass) -> Tensor:
        """Return the loss of every learned token, in nats: [learned tokens] float32."""
        config = self.model.config
        width, heads = config.head_dim, config.num_attention_heads
        embedding = self.model.model.embed_tokens.weight.to(self.dtype)
        device = embedding.device
        ids, labels, positions = (
            each.to(device) for each in (given.ids, given.labels, given.positions)
        )
        x = functional.embedding(ids, embedding)  # [tokens, hidden]
        base = float(config.rope_parameters["rope_theta"])
        speeds = base ** (-torch.arange(0, width, 2, device=device) / width)
        angles = positions[:, None] * speeds  # [tokens, head_dim / 2]
        turn = angles.cos()[:, None], angles.sin()[:, None]
        for layer in self.model.model.layers:
            own, mlp = layer.self_attn, layer.mlp
            inward = self._joined(own.q_proj, own.k_proj, own.v_proj)
            norm = layer.input_layernorm.weight
            made = self.project(x, norm, inward, turn, (heads, width))
            x = self.finish(
                x,
                self._attended(made, given, heads),
                layer.post_attention_layernorm.weight,
                (
                    own.o_proj.weight.to(self.dtype),
                    self._joined(mlp.gate_proj, mlp.up_proj),
                    mlp.down_proj.weight.to(self.dtype),
                ),
            )
        learned = labels != IGNORED
        last = _norm(x[learned], self.model.model.norm.weight, 1e-6)
        logits = functional.linear(last, embedding).float()  # [learned tokens, vocab]
        return functional.cross_entropy(logits, labels[learned], reduction="none")

    def _joined(self, *parts: torch.nn.Linear) -> Tensor:
        return torch.cat([part.weight for part in parts]).to(self.dtype)

    def _attended(self, made: Tensor, given: Pass, heads: int) -> Tensor:
        """Return what each group of rows attends to; the empty end of the pass stays zero."""
        found, at = [], 0
        for rows, length in given.groups:
            end = at + rows * length
            found.append(_attend(made[at:end], rows, length, heads))
            at = end
        rest = made.shape[0] - at
        found.append(made.new_zeros(rest, heads * made.shape[2]))
        return torch.cat(found)
