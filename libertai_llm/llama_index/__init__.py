"""LlamaIndex's classes over the llama-like API: `Libertai`, `LibertaiEmbedding`."""

try:
    import llama_index.core  # noqa: F401
except ImportError as error:
    message = f"these classes need LlamaIndex ({error}): pip install 'libertai-llm[llama-index]'"
    raise ImportError(message) from error

from libertai_llm.llama_index.embedding import LibertaiEmbedding
from libertai_llm.llama_index.llm import Libertai
from libertai_llm.llama_index.structured import InvalidAnswer, TruncatedAnswer
from libertai_llm.llama_index.tokens import (
    ModelTokenizer,
    configure,
    sentence_splitter,
    set_tokenizer,
)
from libertai_llm.llama_index.tools import NoToolCall

__all__ = [
    "InvalidAnswer",
    "Libertai",
    "LibertaiEmbedding",
    "ModelTokenizer",
    "NoToolCall",
    "TruncatedAnswer",
    "configure",
    "sentence_splitter",
    "set_tokenizer",
]
