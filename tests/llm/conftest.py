"""Fixtures of the client's tests.

In: nothing. Out: `serve`, which starts scripted servers, and `any_client`, which makes either of
the two clients behind one blocking face, so that one test holds both to the same behaviour.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from libertai_llm import AsyncClient, Client, Completion, CompletionChunk
from tests.llm.scripted_server import Script, ScriptedServer

Serve = Callable[[Script], ScriptedServer]
MakeClient = Callable[..., Any]


class Blocking:
    """An `AsyncClient` used from blocking code. Invariant: one event loop, its own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.inner = AsyncClient(*args, **options)
        self.loop = asyncio.new_event_loop()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        return found if not callable(found) else lambda *a, **k: self._run(found(*a, **k))

    def complete(self, *args: Any, **options: Any) -> Completion:
        return self.loop.run_until_complete(self.inner.complete(*args, **options))

    def stream(self, *args: Any, **options: Any) -> Generator[CompletionChunk, None, None]:
        chunks = self.inner.stream(*args, **options)
        return self._drive(chunks)

    def infill_stream(self, *args: Any, **options: Any) -> Generator[CompletionChunk, None, None]:
        return self._drive(self.inner.infill_stream(*args, **options))

    def close(self) -> None:
        self.loop.run_until_complete(self.inner.aclose())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def _run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def _drive(self, chunks: Any) -> Generator[CompletionChunk, None, None]:
        try:
            while (chunk := self._run(anext(chunks, None))) is not None:
                yield chunk
        finally:
            self._run(chunks.aclose())


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests say themselves where calls go and with which key."""
    for name in ("LIBERTAI_API_BASE", "LIBERTAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers that answer by a script; they end with the test."""
    servers: list[ScriptedServer] = []

    def start(script: Script) -> ScriptedServer:
        servers.append(ScriptedServer(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(params=["sync", "async"])
def any_client(request: pytest.FixtureRequest) -> Iterator[MakeClient]:
    """Make a client of either kind; the test runs once with each."""
    made: list[Any] = []

    def make(*args: Any, **options: Any) -> Any:
        made.append((Client if request.param == "sync" else Blocking)(*args, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()
