"""Small real stand-ins that tests share: a tokenizer trained here and random models saved to disk.

In: a folder and the name of a family. Out: the folder, complete, as a hub checkout would be:
config.json, generation_config.json, model.safetensors, tokenizer files and a chat template.
"""

from __future__ import annotations

import json
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
    """Vocabulary and merges of `size` ids, trained on the corpus above."""
    from tokenizers import Tokenizer, models, trainers

    fixed = [UNK, BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(fixed), initial_alphabet=["▁"], limit_alphabet=60, show_progress=False
    )
    trained = Tokenizer(models.BPE())
    words = [f"▁{word}" for text in _CORPUS for word in text.split(" ")]
    trained.train_from_iterator(words, trainer)
    model = json.loads(trained.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    vocab = {piece: i for i, piece in enumerate([*fixed, *pieces])}
    return vocab, [(first, second) for first, second in model["merges"]]


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
}
"""What each family (a transformers `model_type`) adds to the shared sizes."""


def tiny_config(family: str = "llama", **changes: Any) -> Any:
    """The transformers config of a tiny model; `changes` override single fields."""
    from transformers import AutoConfig

    return AutoConfig.for_model(family, **{**_SHAPE, **FAMILIES.get(family, {}), **changes})


def tiny_model(family: str = "llama", *, seed: int = 0, **changes: Any) -> Any:
    """A random float32 causal LM of `family`; the same seed gives the same weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(
            tiny_config(family, **changes), dtype=torch.float32
        ).eval()


def save_tiny_model(
    folder: Path | str, family: str = "llama", *, seed: int = 0, **changes: Any
) -> Path:
    """Write a random model of `family` with tokenizer and chat template; returns the folder."""
    folder = Path(folder)
    tokenizer = tiny_tokenizer()
    model = tiny_model(family, seed=seed, **changes)
    model.generation_config.eos_token_id = [2, tokenizer.convert_tokens_to_ids(IM_END)]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
