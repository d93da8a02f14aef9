"""Small real stand-ins that tests share: a tokenizer trained here and random models saved to disk.

In: a folder and the name of a family. Out: the folder, complete, as a hub checkout would be:
config.json, generation_config.json, model.safetensors, tokenizer files and a chat template.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CONTEXT_SIZE = 512
VOCAB_SIZE = 400
BOS, EOS, UNK = "<s>", "</s>", "<unk>"
IM_START, IM_END = "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_CORPUS = (
    "The quick brown fox jumps over the lazy dog while the small river runs to the sea.",
    "Once upon a time there was a little girl who liked to read books about the stars.",
    "What is the capital of France? The capital of France is Paris, a city on the Seine.",
    "user: tell me a story\nassistant: one day the sun rose over the hills and the birds sang.",
    "def add(first, second):\n    return first + second\n\nprint(add(2, 3))  # 5",
    '{"name": "Alice", "age": 42, "tags": ["one", "two", "three"], "active": true}',
    "0123456789 1984 2023-12-24 3.14159 (yes) [no] <maybe> 'single' \"double\" a/b c-d e_f",
    "Il était une fois, un petit château près de la forêt. Schöne Grüße aus München!",
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-fallback BPE of 400 ids, laid out as Llama's: <unk> <s> </s>, 256 bytes, pieces.

    <|im_start|> and <|im_end|> are the last two ids. Puts <s> in front; encodes any text.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab, merges = _train_pieces(VOCAB_SIZE - 2)
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token=UNK, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t in (UNK, BOS, EOS, IM_START, IM_END)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, vocab[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[IM_START, IM_END],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_SIZE,
    )


def _train_pieces(size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of `size` ids, trained on the corpus above, the same every time.

    NOTE: `tokenizers`' own trainer breaks ties in another order in every process.
    """
    words = [list(f"▁{word}") for text in _CORPUS for word in text.split(" ")]
    letters = {"▁"} | {letter for word in words for letter in word if letter.isascii()}
    pieces = [UNK, BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(letters)]
    merges: list[tuple[str, str]] = []
    while len(pieces) < size:
        pairs = Counter(pair for word in words for pair in pairwise(word))
        known = {pair: count for pair, count in pairs.items() if set("".join(pair)) <= letters}
        first, second = max(known, key=lambda pair: (known[pair], pair))
        merges.append((first, second))
        pieces.append(first + second)
        words = [_merge(word, first, second) for word in words]
    return {piece: i for i, piece in enumerate(pieces)}, merges


def _merge(word: list[str], first: str, second: str) -> list[str]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == (first, second):
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": CONTEXT_SIZE,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""Sizes that the families share; `initializer_range` is large so that logits differ clearly."""

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 6},
    "gemma2": {
        "num_hidden_layers": 3,
        "sliding_window": 6,
        "query_pre_attn_scalar": 12,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 10.0,
    },
    "gemma3_text": {
        "num_hidden_layers": 3,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    },
    "phi3": {},
    "gpt2": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6},
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "head_dim": 8,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 12,
        "v_head_dim": 14,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
    },
    "llama4_text": {
        "attention_chunk_size": 6,
        "num_hidden_layers": 3,
        "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
        "num_local_experts": 2,
        "intermediate_size_mlp": 96,
    },
}
"""What each family (a transformers `model_type`) adds to the shared sizes."""


def random_config(family: str = "llama", **changes: Any) -> Any:
    """The transformers config of a tiny model; `changes` override single fields."""
    from transformers import AutoConfig

    return AutoConfig.for_model(family, **{**_SHAPE, **FAMILIES.get(family, {}), **changes})


def random_model(family: str = "llama", *, seed: int = 0, **changes: Any) -> Any:
    """A random float32 causal LM of `family`; the same seed gives the same weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(
            random_config(family, **changes), dtype=torch.float32
        ).eval()


def save_tiny_model(
    folder: Path | str,
    family: str = "llama",
    *,
    seed: int = 0,
    control_tokens: Sequence[str] = (),
    **changes: Any,
) -> Path:
    """Write a random model of `family` with tokenizer and chat template; returns the folder.

    `control_tokens` are further ones, from id 400 on.
    """
    folder = Path(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [IM_START, IM_END, *control_tokens]})
    sizes = {"vocab_size": VOCAB_SIZE + len(control_tokens)}
    model = random_model(family, seed=seed, **{**sizes, **changes})
    model.generation_config.eos_token_id = [2, tokenizer.convert_tokens_to_ids(IM_END)]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_gguf(
    path: Path | str, *, seed: int = 0, quantization: str = "F32", **changes: Any
) -> Path:
    """The Llama of `save_tiny_model` with the same weights and tokenizer, as one GGUF file.

    Names and layout are llama.cpp's: rotary halves of Q and K are interleaved. `quantization` is
    for the matrices, F32 or Q8_0; the latter needs rows of a multiple of 32.
    """
    import gguf

    model, tokenizer = random_model(seed=seed, **changes), tiny_tokenizer()
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_gguf_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if "q_proj" in name or "k_proj" in name:
            pairs = weight.view(-1, 2, config.head_dim // 2, config.hidden_size)
            weight.copy_(pairs.transpose(1, 2).reshape(weight.shape))  # [head, half, 2, hidden]
        kind = gguf.GGMLQuantizationType[quantization if weight.ndim == 2 else "F32"]
        stored = gguf.quants.quantize(weight.numpy(), kind)
        writer.add_tensor(names.get_name(name, (".weight",)), stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path)


def _add_gguf_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """The vocabulary as a SentencePiece-like model: earlier merges score higher."""
    import gguf

    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    types = [gguf.TokenType.NORMAL] * len(tokens)
    types[0] = gguf.TokenType.UNKNOWN
    for index in (1, 2, len(tokens) - 2, len(tokens) - 1):
        types[index] = gguf.TokenType.CONTROL
    types[3:259] = [gguf.TokenType.BYTE] * 256
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)
