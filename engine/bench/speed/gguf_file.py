"""The same weights as a GGUF file, for llama.cpp.

In: a folder that `shapes.write_model` wrote. Out: a GGUF file in bf16, Q8_0 or Q4_0, embedding and
head included. Tensors are read, rounded and written one by one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors import safe_open

from speed.shapes import NORM_EPS, ROPE_BASE, Shape

KINDS = {
    "fp32": gguf.GGMLQuantizationType.F32,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "int8": gguf.GGMLQuantizationType.Q8_0,
    "int4": gguf.GGMLQuantizationType.Q4_0,
}
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def write_gguf(shape: Shape, folder: Path, path: Path, precision: str) -> None:
    """Write the model in `folder` as a GGUF file of this precision (a key of `KINDS`)."""
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, shape)
    _add_tokens(writer, folder)
    tensors = [(name, size, _kind(size, precision)) for name, size in shape.tensors()]
    for name, size, kind in tensors:
        num_bytes = int(np.prod(gguf.quant_shape_to_byte_shape(_plain(size), kind)))
        told = np.dtype(np.float32)  # what it would be without `raw_dtype`
        writer.add_tensor_info(rename(name), _plain(size), told, num_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for data in _rounded(shape, folder, [kind for _, _, kind in tensors]):
        writer.write_tensor_data(data)
    writer.close()


def rename(name: str) -> str:
    """transformers' name of a tensor to llama.cpp's."""
    stem = name.removesuffix(".weight")
    if stem in TOP:
        return f"{TOP[stem]}.weight"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def _describe(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_name(shape.name)
    writer.add_context_length(1 << 16)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(NORM_EPS)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_vocab_size(shape.vocab)


def _add_tokens(writer: gguf.GGUFWriter, folder: Path) -> None:
    model: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())["model"]
    vocab: dict[str, int] = model["vocab"]
    tokens = sorted(vocab, key=vocab.__getitem__)
    kinds = [gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(tokens) - 1)
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


def _kind(size: tuple[int, int], precision: str) -> gguf.GGMLQuantizationType:
    """Vectors stay fp32, as in every GGUF file."""
    return KINDS[precision] if size[1] else gguf.GGMLQuantizationType.F32


def _plain(size: tuple[int, int]) -> tuple[int, ...]:
    return size if size[1] else size[:1]


def _rounded(
    shape: Shape, folder: Path, kinds: list[gguf.GGMLQuantizationType]
) -> Iterator[np.ndarray[Any, Any]]:
    """What the file holds of each tensor, in the order of `Shape.tensors`."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        for (name, _), kind in zip(shape.tensors(), kinds, strict=True):
            weight = _permuted(shape, name, file.get_tensor(name).float())
            yield gguf.quantize(weight.numpy(), kind)


def _permuted(shape: Shape, name: str, weight: torch.Tensor) -> torch.Tensor:
    """llama.cpp turns neighbouring numbers of a head, transformers its halves."""
    heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return weight
    rows, columns = weight.shape
    parted = weight.view(heads, 2, rows // heads // 2, columns)
    return parted.transpose(1, 2).reshape(rows, columns).contiguous()
