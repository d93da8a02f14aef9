"""LlamaIndex's classes over the llama-like API: `Libertai`."""

try:
    import llama_index.core  # noqa: F401
except ImportError as error:
    message = f"these classes need LlamaIndex ({error}): pip install 'libertai-llm[llama-index]'"
    raise ImportError(message) from error

from libertai_llm.llama_index.llm import Libertai

__all__ = ["Libertai"]
