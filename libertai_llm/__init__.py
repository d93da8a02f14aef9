"""LangChain and LlamaIndex for the llama-like API: one client, remote or in-process.

In: nothing. Out: the client and its types; the errors are in `libertai_llm.errors`, LangChain's
classes in `libertai_llm.langchain`, LlamaIndex's in `libertai_llm.llama_index`.
"""

from libertai_llm._version import __version__
from libertai_llm.client import AsyncClient, Client
from libertai_llm.errors import LibertaiError
from libertai_llm.facts import ErasedSlot, ModelInfo, SlotFile, SlotState
from libertai_llm.params import CompletionParams
from libertai_llm.probs import TokenProb, TokenProbs
from libertai_llm.session import Session, SessionStore
from libertai_llm.timeouts import Timeouts
from libertai_llm.types import Completion, CompletionChunk, Health, Props, Timings, TokenPiece

__all__ = [
    "AsyncClient",
    "Client",
    "Completion",
    "CompletionChunk",
    "CompletionParams",
    "ErasedSlot",
    "Health",
    "LibertaiError",
    "ModelInfo",
    "Props",
    "Session",
    "SessionStore",
    "SlotFile",
    "SlotState",
    "Timeouts",
    "Timings",
    "TokenPiece",
    "TokenProb",
    "TokenProbs",
    "__version__",
]
