"""Token counts that are the model's, for LlamaIndex's splitters, memories and prompt helpers.

In: whatever tokenises: a `Libertai`, a `Client`, a function. Out: LlamaIndex's global tokenizer and
splitters that count with it. Nothing here asks the network for anything: LlamaIndex's own defaults
are tiktoken's and nltk's, whose data may have to be fetched.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

from llama_index.core import Settings
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.utils import set_global_tokenizer

CHUNK_SIZE, CHUNK_OVERLAP = 256, 32  # tokens; small models answer from short passages
CACHED_TEXTS = 4096

# A sentence with its end and the blanks behind it, or a line.
# NOTE: an end is looked for at its first mark only: not again and again in a line of dots.
_SENTENCE = re.compile(
    r".*?(?:(?<![.!?。！？…])[.!?。！？…]+[\"'”’)\]]*(?:\s+|$)|\n+|$)", re.DOTALL
)


class Tokenizes(Protocol):
    """A model or a client."""

    def tokenize(self, text: str) -> list[int]:
        """The token ids of a text."""


class ModelTokenizer:
    """A model's tokenizer as LlamaIndex wants it: a function from a text to a list.

    Invariant: the latest `size` texts are remembered, because LlamaIndex counts the same text many
    times and a server answers each with a round trip. Safe from many threads; pickles with its
    model.
    """

    def __init__(self, source: Tokenizes | Callable[[str], list[Any]], size: int = CACHED_TEXTS):
        self._source = source
        self._size = size
        tokenize: Any = getattr(source, "tokenize", source)
        self._remembered = lru_cache(maxsize=size)(lambda text: tuple(tokenize(text)))

    def __call__(self, text: str) -> list[Any]:
        """The tokens of a text."""
        return list(self._remembered(text))

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelTokenizer, (self._source, self._size)


def set_tokenizer(source: Tokenizes | Callable[[str], list[Any]]) -> ModelTokenizer:
    """Have LlamaIndex count this model's tokens everywhere from now on; returns the tokenizer.

    Splitters that exist already keep counting as before.
    """
    tokenizer = _tokenizer(source)
    set_global_tokenizer(tokenizer)
    return tokenizer


def sentence_splitter(
    source: Tokenizes | Callable[[str], list[Any]],
    *,
    chunk_size: int = CHUNK_SIZE,
    chunk_overlap: int = CHUNK_OVERLAP,
    **options: Any,
) -> SentenceSplitter:
    """A splitter into passages of whole sentences, measured in the model's tokens.

    `options` are those of `SentenceSplitter`.
    """
    given = {"tokenizer": _tokenizer(source), "chunking_tokenizer_fn": sentences, **options}
    return SentenceSplitter(chunk_size=chunk_size, chunk_overlap=chunk_overlap, **given)


def configure(
    llm: Any,
    embed_model: Any,
    *,
    chunk_size: int = CHUNK_SIZE,
    chunk_overlap: int = CHUNK_OVERLAP,
) -> ModelTokenizer:
    """Make these LlamaIndex's defaults: model, embeddings, tokenizer and splitter.

    Returns the tokenizer, which is that of `llm`.
    """
    tokenizer = set_tokenizer(llm)
    Settings.llm = llm
    Settings.embed_model = embed_model
    Settings.node_parser = sentence_splitter(
        tokenizer, chunk_size=chunk_size, chunk_overlap=chunk_overlap
    )
    return tokenizer


def sentences(text: str) -> list[str]:
    """A text cut behind its sentences and lines; joined again it is the same."""
    return [piece for piece in _SENTENCE.findall(text) if piece]


def _tokenizer(source: Any) -> ModelTokenizer:
    return source if isinstance(source, ModelTokenizer) else ModelTokenizer(source)
