"""LangChain's classes over the llama-like API: `ChatLibertai`, `LibertaiLLM` and `Libertai`."""

from libertai_llm.langchain.chat_models import ChatLibertai
from libertai_llm.langchain.llms import LibertaiLLM
from libertai_llm.langchain.seed import Libertai

__all__ = ["ChatLibertai", "Libertai", "LibertaiLLM"]
