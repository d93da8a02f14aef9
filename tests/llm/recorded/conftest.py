"""Replay of what real llama-like servers answered, and the recording of it.

In: cassettes/<server>/<module>/<test>.yaml, or a server named by LIBERTAI_RECORD_<SERVER>.
Out: the fixtures `server` (which peer, where) and `caller` (our Client, or AsyncClient, on it).

A server that the environment names is recorded by the synchronous client; the asynchronous one
then has to live on that very recording. A server that is not named is replayed, with the
network blocked.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from vcr import VCR
from vcr.request import Request

from libertai_llm import AsyncClient, Client, Completion, CompletionChunk

ROOT = Path(__file__).resolve().parents[3]
REPLAY_URL = "http://127.0.0.1"
SERVERS = (
    *("dec2023", "dec2023-key", "dec2023-infill", "dec2023-sticky"),
    *("today", "today-key", "today-sticky"),
    *("dec2023-embedding", "today-embedding"),
)
API_KEY = "recorded-key"
STICKY_COOKIE = "node"
KEPT_HEADERS = {"content-type", "retry-after", "server", "set-cookie"}
# NOTE: the 2023 server frees a slot one turn of its loop after the answer has left; a request
# that arrives before that gets another slot, so a recording waits between requests.
SETTLE_SECONDS = 0.2


@dataclass(frozen=True)
class Server:
    """A peer. Invariant: `url` is the live one while recording, the fixed one in replay."""

    name: str
    url: str
    recording: bool

    @property
    def api_key(self) -> str | None:
        """The key that servers named `…-key` are started with."""
        return API_KEY if self.name.endswith("-key") else None

    def settle(self) -> None:
        """Let the live server come to rest before the next request."""
        if self.recording:
            time.sleep(SETTLE_SECONDS)

    @contextmanager
    def occupied(self, slots: int, *, seconds: float | None = None) -> Iterator[None]:
        """Keep `slots` slots of the live server generating, for a time or the whole block."""
        with ExitStack() as stack:
            for _ in range(slots if self.recording else 0):
                stack.enter_context(_endless_stream(self.url))
            if seconds is not None and self.recording:
                early = Timer(seconds, stack.pop_all().close)
                stack.callback(early.join)
                early.start()
            yield
        self.settle()


@contextmanager
def _endless_stream(url: str) -> Iterator[None]:
    # NOTE: vcr reads a body to its end, so an endless stream has to pass below it, on a socket.
    body = json.dumps({"prompt": "a", "n_predict": -1, "ignore_eos": True, "stream": True})
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port or 80)) as connection:
        head = f"POST /completion HTTP/1.1\r\nHost: {address.netloc}\r\n"
        head += f"Authorization: Bearer {API_KEY}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        connection.recv(1)
        yield


def variable(name: str) -> str:
    """The environment variable that names the live server to record `name` from."""
    return "LIBERTAI_RECORD_" + name.upper().replace("-", "_")


def _parameters(request: pytest.FixtureRequest) -> dict[str, Any]:
    callspec = getattr(request.node, "callspec", None)
    return callspec.params if callspec else {}


def _live_url(request: pytest.FixtureRequest) -> str | None:
    """The server to record from; None in replay, which is all that the asynchronous client does."""
    chosen = _parameters(request)
    if chosen.get("style") == "async":
        return None
    return os.environ.get(variable(chosen.get("server", "none")))


def pytest_configure(config: pytest.Config) -> None:
    """A misspelt server would be replayed in silence."""
    known = {variable(name) for name in SERVERS}
    named = {name for name in os.environ if name.startswith(variable(""))}
    if named - known:
        raise pytest.UsageError(f"{', '.join(named - known)} is none of {', '.join(known)}")


@pytest.fixture
def known_servers() -> frozenset[str]:
    """The names of all peers."""
    return frozenset(SERVERS)


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The peer that the test's `server` parameter names."""
    monkeypatch.delenv("LIBERTAI_API_KEY", raising=False)
    monkeypatch.delenv("LIBERTAI_API_BASE", raising=False)
    live = _live_url(request)
    return Server(request.param, live or REPLAY_URL, recording=live is not None)


class Caller:
    """Our synchronous client, one request after another. Invariant: it waits before each."""

    def __init__(self, server: Server, **options: Any) -> None:
        self.server = server
        self.client = Client(**{"base_url": server.url, "api_key": server.api_key, **options})

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        """A method of the client by its name."""
        self.server.settle()
        return getattr(self.client, method)(*args, **options)

    def complete(self, prompt: Any, **options: Any) -> Completion:
        return self.call("complete", prompt, **options)

    def stream(self, *args: Any, method: str = "stream", **options: Any) -> list[CompletionChunk]:
        return list(self.call(method, *args, **options))

    def close(self) -> None:
        self.client.close()


class AsyncCaller:
    """Our asynchronous client behind the same methods. Invariant: one event loop, its own."""

    def __init__(self, server: Server, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = AsyncClient(**{"base_url": server.url, "api_key": server.api_key, **options})

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        """A method of the client by its name."""
        return self.loop.run_until_complete(getattr(self.client, method)(*args, **options))

    def complete(self, prompt: Any, **options: Any) -> Completion:
        return self.call("complete", prompt, **options)

    def stream(self, *args: Any, method: str = "stream", **options: Any) -> list[CompletionChunk]:
        async def collect() -> list[CompletionChunk]:
            chunks = getattr(self.client, method)(*args, **options)
            return [chunk async for chunk in chunks]

        return self.loop.run_until_complete(collect())

    def close(self) -> None:
        self.loop.run_until_complete(self.client.aclose())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


@pytest.fixture(params=["sync", "async"])
def style(request: pytest.FixtureRequest) -> str:
    """Which of our two clients drives the test; the synchronous one comes first and records."""
    return str(request.param)


@pytest.fixture
def connect(server: Server, style: str, vcr: Any) -> Iterator[Callable[..., Caller | AsyncCaller]]:
    """Make clients of the wanted style on the server; all are closed after the test."""
    with ExitStack() as stack:

        def make(**options: Any) -> Caller | AsyncCaller:
            made = (Caller if style == "sync" else AsyncCaller)(server, **options)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def caller(connect: Callable[..., Caller | AsyncCaller]) -> Caller | AsyncCaller:
    """One client of the wanted style on the server."""
    return connect()


@pytest.fixture(autouse=True)
def every_recorded_answer_is_used(vcr: Any) -> Iterator[None]:
    """A client that asks less than was recorded fails, just as one that asks more does."""
    yield
    if vcr is not None and vcr.rewound:
        assert vcr.all_played, f"{vcr.play_count} of {len(vcr)} recorded answers were used"


@pytest.fixture
def vcr_cassette_dir(request: pytest.FixtureRequest) -> str:
    """cassettes/<server>/<module>, so that equal test names in two modules do not collide."""
    name = _parameters(request).get("server", "none")
    return str(ROOT / "cassettes" / name / request.node.path.stem)


@pytest.fixture
def default_cassette_name(request: pytest.FixtureRequest) -> str:
    """The test's name and its own parameters: one recording serves both clients."""
    own = [str(v) for k, v in _parameters(request).items() if k not in {"server", "style"}]
    return "-".join([request.node.originalname, *own])


@pytest.fixture
def vcr_config(request: pytest.FixtureRequest) -> dict[str, Any]:
    """How requests are scrubbed, compared and written."""
    return {
        # NOTE: a mode given here outranks --record-mode, so the command line cannot by
        # accident reach for the network.
        "record_mode": "rewrite" if _live_url(request) else "none",
        "match_on": ["method", "path", "query", "body", "identity"],
        "before_record_request": scrub_request,
        "before_record_response": scrub_response,
        "serializer": "yaml",
    }


def pytest_recording_configure(config: pytest.Config, vcr: VCR) -> None:
    """Teach vcr who is asking, and to write text that a reviewer can read."""
    vcr.register_matcher("identity", same_identity)
    vcr.register_serializer("yaml", ReadableYAML())


def scrub_request(request: Request) -> Request:
    """Forget host, port, key and everything about the HTTP library; keep the sticky cookie."""
    kept = copy.copy(request)
    address = urlsplit(request.uri)
    kept.uri = REPLAY_URL + address._replace(scheme="", netloc="").geturl()
    # No body is None to one HTTP library and empty to the other.
    kept.body = request.body or ""
    kept.headers = {}
    for name, value in request.headers.items():
        text = value.decode() if isinstance(value, bytes) else str(value)
        if name.lower() in {"content-type", "cookie"}:
            kept.headers[name.lower()] = text
        elif name.lower() == "authorization":
            kept.headers["authorization"] = "Bearer SCRUBBED"
    return kept


def scrub_response(response: dict[str, Any]) -> dict[str, Any]:
    """Keep the few headers that a client acts on, and no cookie but the sticky one."""
    headers = {name.lower(): values for name, values in response["headers"].items()}
    headers = {name: values for name, values in headers.items() if name in KEPT_HEADERS}
    cookies = headers.pop("set-cookie", [])
    cookies = [cookie for cookie in cookies if cookie.startswith(STICKY_COOKIE + "=")]
    if cookies:
        headers["set-cookie"] = cookies
    return {**response, "headers": headers}


def same_identity(one: Request, other: Request) -> None:
    """A request matches only when it carries the same sticky cookie, and a key if one was."""
    for name in ("cookie", "authorization"):
        assert one.headers.get(name) == other.headers.get(name), f"another {name}"


class _BlockDumper(yaml.SafeDumper):
    """Safe YAML with several lines as a block. Invariant: loads back to the same text."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_BlockDumper.add_representer(str, _represent_text)


class ReadableYAML:
    """vcr's serializer seam, plain YAML. Invariant: no python tags, no wrapped lines."""

    def serialize(self, cassette: dict[str, Any]) -> str:
        return yaml.dump(
            cassette, Dumper=_BlockDumper, width=10**6, allow_unicode=True, sort_keys=False
        )

    def deserialize(self, text: str) -> Any:
        return yaml.safe_load(text)
