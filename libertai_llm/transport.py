"""The one seam under the client: a path and a dict go in, a dict or a stream of dicts comes out.

In: the JSON body of a route. Out: the JSON objects of its answer (an array where several things
were asked for), the same whether they came over HTTP or from an engine in this process. A
transport makes one attempt; the client repeats.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any, Protocol

from libertai_llm.session import Session
from libertai_llm.timeouts import Timeouts

JSON = dict[str, Any]
Reply = JSON | list[Any]


class Transport(Protocol):
    """How a blocking client reaches an API. Safe from many threads.

    Every method raises `LibertaiError`; a stream may also end with an `{"error": …}` object.
    Closing a stream's generator tells the other side at once that nobody reads any more.
    """

    @property
    def target(self) -> str:
        """What is at the other end: an address without secrets, or a model."""

    def request(
        self, method: str, path: str, body: JSON | None, *, session: Session, timeouts: Timeouts
    ) -> Reply:
        """One answer as a whole."""
        ...

    def stream(
        self, path: str, body: JSON, *, session: Session, timeouts: Timeouts
    ) -> Generator[JSON, None, None]:
        """The events of one answer."""

    def close(self) -> None:
        """Let go of connections or engine. Closing twice is fine."""


class AsyncTransport(Protocol):
    """The same without blocking, for any number of event loops."""

    @property
    def target(self) -> str:
        """What is at the other end."""

    async def request(
        self, method: str, path: str, body: JSON | None, *, session: Session, timeouts: Timeouts
    ) -> Reply:
        """One answer as a whole."""
        ...

    def stream(
        self, path: str, body: JSON, *, session: Session, timeouts: Timeouts
    ) -> AsyncGenerator[JSON, None]:
        """The events of one answer."""

    async def aclose(self) -> None:
        """Let go of connections or engine. Closing twice is fine."""
