"""Both clients under one name: `Client` blocks, `AsyncClient` awaits; their methods are the same.

In: nothing. Out: the two classes.
"""

from libertai_llm.client_async import AsyncClient
from libertai_llm.client_sync import Client

__all__ = ["AsyncClient", "Client"]
