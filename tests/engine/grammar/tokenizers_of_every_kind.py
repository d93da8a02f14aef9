"""Tokenizers that spell text in each of the usual ways, small and with text in every byte.

In: the name of a kind. Out: a `Tokenizer`, and the `TokenVocabulary` that an engine makes of it.
"""

from __future__ import annotations

from functools import cache

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from libertai_engine.engine import token_vocabulary
from libertai_engine.grammar.compiler import GrammarCompiler
from libertai_engine.grammar.vocabulary import TokenVocabulary
from libertai_engine.text.tokenizer import Tokenizer
from tests.fakes import tiny_tokenizer

KINDS = ("sentencepiece", "byte_level", "word_piece")


@cache
def make_tokenizer(kind: str) -> Tokenizer:
    """The tokenizer of a kind."""
    makers = {"sentencepiece": tiny_tokenizer, "byte_level": _byte_level, "word_piece": _word_piece}
    return Tokenizer(makers[kind]())


@cache
def make_vocabulary(kind: str, size: int | None = None) -> TokenVocabulary:
    """The vocabulary for a model of `size` ids (None: those of the tokenizer)."""
    tokenizer = make_tokenizer(kind)
    return token_vocabulary(tokenizer, size or tokenizer.vocab_size)


def make_compiler(kind: str = "sentencepiece") -> GrammarCompiler:
    """A compiler for a kind's own vocabulary."""
    return GrammarCompiler(lambda: make_vocabulary(kind))


def _byte_level() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("{", '"'), ('"', ":"), ("t", "r"), ("tr", "ue"), ("u", "e"), ("Ġ", '"'), ('"', "}")]
    merges = [merges[4], *merges[:4], *merges[5:]]
    pieces = [*letters, *(first + second for first, second in merges)]
    backend = Backend(models.BPE({piece: each for each, piece in enumerate(pieces)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    backend.add_special_tokens([AddedToken(name, special=True) for name in names])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


def _word_piece() -> PreTrainedTokenizerFast:
    """Words behind a space and what goes on without one; not every text can be written."""
    signs = [*'{}[]:,"-0123456789', "true", "false", "null", "a", "b", "name"]
    pieces = ["[UNK]", "[SEP]", *signs, *(f"##{sign}" for sign in signs)]
    backend = Backend(
        models.WordPiece({piece: each for each, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    backend.add_special_tokens([AddedToken(name, special=True) for name in ("[UNK]", "[SEP]")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="[SEP]")
