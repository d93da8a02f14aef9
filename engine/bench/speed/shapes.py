"""Models to measure, made on the spot: Llamas of three sizes with random weights.

In: a `Shape` and a folder. Out: a folder as `save_pretrained` would leave it, weights in bf16.
Speed does not depend on what weights say. They are written one tensor at a time, so a model that is
larger than the memory can be made, and are the same on every machine.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from trained_tokenizer import train_tokenizer

NUM_TOKENS = 32_000
CONTEXT_SIZE = 65_536
ROPE_BASE = 10_000.0
NORM_EPS = 1e-5
STD = 0.02
CORPUS_BYTES = 8 << 20  # enough for a vocabulary of this size


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Llama: widths, layers, heads. `is_tied` says that the head is the embedding."""

    name: str
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    is_tied: bool = False
    vocab: int = NUM_TOKENS

    @property
    def head_dim(self) -> int:
        """Numbers in one head."""
        return self.hidden // self.heads

    @property
    def num_parameters(self) -> int:
        """All weights, a tied one once."""
        return sum(rows * max(1, columns) for _, (rows, columns) in self.tensors())

    @property
    def num_read(self) -> int:
        """Weights that one decode step has to read: all but the rows of unused embeddings."""
        return self.num_parameters - (0 if self.is_tied else self.vocab * self.hidden)

    @property
    def matrix_flop(self) -> int:
        """Operations that one token of a prompt costs in the layers' matrices, attention aside."""
        return 2 * (self.num_read - self.vocab * self.hidden)

    def tensors(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Names and sizes as transformers has them; 0 columns: a vector."""
        kv = self.kv_heads * self.head_dim
        yield "model.embed_tokens.weight", (self.vocab, self.hidden)
        for layer in range(self.layers):
            for name, size in (
                ("input_layernorm", (self.hidden, 0)),
                ("self_attn.q_proj", (self.hidden, self.hidden)),
                ("self_attn.k_proj", (kv, self.hidden)),
                ("self_attn.v_proj", (kv, self.hidden)),
                ("self_attn.o_proj", (self.hidden, self.hidden)),
                ("post_attention_layernorm", (self.hidden, 0)),
                ("mlp.gate_proj", (self.ffn, self.hidden)),
                ("mlp.up_proj", (self.ffn, self.hidden)),
                ("mlp.down_proj", (self.hidden, self.ffn)),
            ):
                yield f"model.layers.{layer}.{name}.weight", size
        yield "model.norm.weight", (self.hidden, 0)
        if not self.is_tied:
            yield "lm_head.weight", (self.vocab, self.hidden)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(name="60M", hidden=512, ffn=1408, layers=14, heads=8, kv_heads=4, is_tied=True),
        Shape(name="0.5B", hidden=1280, ffn=3456, layers=24, heads=20, kv_heads=4),
        Shape(name="1.1B", hidden=2048, ffn=5632, layers=22, heads=32, kv_heads=4),
    )
}


def make_weight(name: str, size: tuple[int, int]) -> torch.Tensor:
    """One tensor, bf16: ones for a norm, else normal with a seed of its own."""
    rows, columns = size
    if columns == 0:
        return torch.ones(rows, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.empty(rows, columns).normal_(std=STD, generator=generator).to(torch.bfloat16)


def write_model(shape: Shape, folder: Path) -> None:
    """Weights, configuration and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(shape.vocab, CORPUS_BYTES)
    tokenizer.save_pretrained(folder)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": CONTEXT_SIZE,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_BASE,
        "hidden_act": "silu",
        "tie_word_embeddings": shape.is_tied,
        "torch_dtype": "bfloat16",
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    _write_weights(shape, folder / "model.safetensors")


def _write_weights(shape: Shape, path: Path) -> None:
    """A safetensors file: the length of a header, the header, then tensor after tensor."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (rows, columns) in shape.tensors():
        end = offset + 2 * rows * max(1, columns)
        size = [rows, columns] if columns else [rows]
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, size in shape.tensors():
            file.write(make_weight(name, size).view(torch.int16).numpy().tobytes())
