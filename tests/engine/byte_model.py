"""A random model that writes letter by letter, so that a text is always the same tokens.

In: a folder. Out: a model with a byte-level vocabulary without merges; one letter is missing.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from tests.fakes import random_model

MISSING = "~"  # no token has it
EOS = "<|endoftext|>"


def save_byte_model(folder: Path, *, seed: int = 0) -> Path:
    """Write the model; returns the folder."""
    letters = [
        letter for letter in sorted(pre_tokenizers.ByteLevel.alphabet()) if letter != MISSING
    ]
    backend = Backend(models.BPE({letter: each for each, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(EOS, special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS)
    model = random_model(
        seed=seed,
        vocab_size=len(letters) + 1,
        bos_token_id=None,
        eos_token_id=len(letters),
        pad_token_id=None,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
