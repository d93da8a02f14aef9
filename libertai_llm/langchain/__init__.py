"""LangChain's classes over the llama-like API: `ChatLibertai`, `LibertaiLLM`, `LibertaiEmbeddings`,
and `Libertai` of LibertAI's documentation."""

try:
    import langchain_core  # noqa: F401
except ImportError as error:
    message = f"these classes need LangChain ({error}): pip install 'libertai-llm[langchain]'"
    raise ImportError(message) from error

from libertai_llm.langchain.chat_models import ChatLibertai
from libertai_llm.langchain.embeddings import LibertaiEmbeddings
from libertai_llm.langchain.llms import LibertaiLLM
from libertai_llm.langchain.parsers import InvalidAnswer, TruncatedAnswer
from libertai_llm.langchain.seed import Libertai

__all__ = [
    "ChatLibertai",
    "InvalidAnswer",
    "Libertai",
    "LibertaiEmbeddings",
    "LibertaiLLM",
    "TruncatedAnswer",
]
