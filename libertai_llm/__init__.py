"""LangChain and LlamaIndex for the llama-like API: one client, remote or in-process."""

from libertai_llm._version import __version__

__all__ = ["__version__"]
