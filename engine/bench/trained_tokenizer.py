"""A tokenizer made on the spot: byte-level BPE, trained on the Python files around.

In: how many tokens. Out: a tokenizer of transformers with exactly those. No download, and the same
on every machine that has the same Python and torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

EOS = "<|endoftext|>"
CORPUS_BYTES = 32 << 20


def corpus(num_bytes: int) -> Iterator[str]:
    """Texts of the Python installation, up to `num_bytes`."""
    left = num_bytes
    for folder in (Path(json.__file__).parents[1], Path(torch.__file__).parents[1]):
        for path in sorted(folder.rglob("*.py")):
            if left <= 0:
                return
            text = path.read_text(errors="replace")
            left -= len(text)
            yield text


def train_tokenizer(size: int, num_bytes: int = CORPUS_BYTES) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `size` tokens, the first of which ends a text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=32,
    )
    backend.train_from_iterator(corpus(num_bytes), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS)
