"""Small real embedding models that tests share: random encoders saved as a hub checkout would be.

In: a folder, the name of a family, what sentence-transformers' files shall say. Out: the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

PAD, UNK, CLS, SEP = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
WORDS = (
    "the a cat dog sat on mat tree river king queen bread water fire runs sleeps red green old "
    "new small large is was not in under over query passage : , ."
).split()
MAX_TOKENS = 24

_BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.4,
}
_DISTIL = {
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.4,
}
# NOTE: in the second group position 0 is not the first row of the table.
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "distilbert": _DISTIL,
    "electra": {**_BERT, "embedding_size": 32},
    "roberta": {**_BERT, "pad_token_id": 0},
    "xlm-roberta": {**_BERT, "pad_token_id": 0},
    "mpnet": {**_BERT, "pad_token_id": 0},
    "t5": {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
    },
    "llama": {**_BERT, "num_key_value_heads": 2},
}


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A word a token, with [CLS] in front and [SEP] behind, as BERT has it; lower case only."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocab = {word: index for index, word in enumerate([PAD, UNK, CLS, SEP, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=UNK))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B {SEP}",
        special_tokens=[(CLS, vocab[CLS]), (SEP, vocab[SEP])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNK, cls_token=CLS, sep_token=SEP
    )


def save_encoder(folder: Path, family: str = "bert", **changes: Any) -> Path:
    """A random model of a family, without sentence-transformers' files."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

    tokenizer = word_tokenizer()
    settings = {"vocab_size": len(tokenizer), **ENCODERS[family], **changes}
    config = AutoConfig.for_model(family, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        kind: Any = AutoModelForTextEncoding if config.is_encoder_decoder else AutoModel
        model = kind.from_config(config)
        with torch.no_grad():  # some families start with numbers too small to tell poolings apart
            for weight in model.parameters():
                weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def add_recipe(
    folder: Path,
    pooling: dict[str, Any],
    *,
    normalize: bool = True,
    dense: int | None = None,
    prompts: dict[str, str] | None = None,
    default_prompt: str | None = None,
    max_tokens: int = MAX_TOKENS,
) -> Path:
    """The files of sentence-transformers beside a model; `dense` is the size of a projection."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **pooling})
    if dense is not None:
        modules.append(("2_Dense", "Dense"))
        _save_dense(folder / "2_Dense", dense)
    if normalize:
        modules.append(("3_Normalize", "Normalize"))
    listed = [
        {
            "idx": index,
            "name": str(index),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, (path, kind) in enumerate(modules)
    ]
    _write(folder / "modules.json", listed)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens})
    settings = {"prompts": prompts or {}, "default_prompt_name": default_prompt}
    _write(folder / "config_sentence_transformers.json", settings)
    return folder


def _save_dense(folder: Path, size: int) -> None:
    import torch
    from safetensors.torch import save_file

    activation = "torch.nn.modules.activation.Tanh"
    config = {"in_features": 32, "out_features": size, "bias": True}
    _write(folder / "config.json", {**config, "activation_function": activation})
    made = torch.Generator().manual_seed(3)
    weights = {
        "linear.weight": torch.randn(size, 32, generator=made) / 6,
        "linear.bias": torch.randn(size, generator=made),
    }
    save_file(weights, folder / "model.safetensors")


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
