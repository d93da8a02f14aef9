"""A real server on a free port of this machine, and clients that know no library's opinion.

In: an API and a configuration. Out: a `Running` server; answers as plain `Reply`s.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from libertai_engine.config import ServerConfig
from libertai_engine.http.lifecycle import Lifecycle
from libertai_engine.http.run import DrainingServer, listen
from libertai_engine.server import build_app

LONG_CONTEXT = 8192
REFERENCE = {"prompt": "Once upon a time", "n_predict": 6, "temperature": 0, "seed": 1}


@dataclass(frozen=True)
class Reply:
    """One answer, taken apart by hand."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, checked for its shape."""
        assert self.headers["content-type"] == "application/json; charset=utf-8"
        error: dict[str, Any] = self.json["error"]
        assert set(error) >= {"code", "message", "type"} and error["code"] == self.status, error
        return error

    @property
    def events(self) -> list[Any]:
        """The objects of a stream whose framing is exactly `data: {json}` and an empty line."""
        assert self.headers["content-type"].startswith("text/event-stream")
        blocks = self.body.decode().split("\n\n")
        assert blocks.pop() == "", "a stream ends with an empty line"
        events = [block for block in blocks if block != ": ping"]
        assert all(event.startswith("data: ") for event in events), events
        return [json.loads(event.removeprefix("data: ")) for event in events]


def parse_reply(raw: bytes) -> Reply:
    """The first answer in what a connection sent; chunks are put together."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = [line.split(":", 1) for line in lines]
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join(_chunks(body))
    return Reply(int(first.split(" ")[1]), headers, body)


def _chunks(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        yield body[:length]
        body = body[length + 2 :]


@dataclass(frozen=True)
class Running:
    """A server that runs in a thread of this process."""

    port: int
    lifecycle: Lifecycle

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self, timeout: float = 20) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def raw(self, request: bytes, timeout: float = 20) -> Reply:
        """Send bytes, read until the server closes."""
        with self.connect(timeout) as client:
            client.sendall(request)
            return parse_reply(read_all(client))

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
        """One request on a connection of its own. `_` in header names stands for `-`."""
        return self.raw(request_bytes(method, path, body, **headers))

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, **headers)

    def post(self, path: str, value: Any, **headers: str) -> Reply:
        return self.send("POST", path, json.dumps(value).encode(), **headers)


def read_all(client: socket.socket) -> bytes:
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def request_bytes(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """A request that asks for the connection to be closed after it."""
    lines = {"Host": "127.0.0.1", "Connection": "close"}
    if body:
        lines["Content-Length"] = str(len(body))
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


@contextmanager
def running(api: Any, **options: Any) -> Iterator[Running]:
    """Serve `api` until the block ends."""
    config = ServerConfig(**{"port": 0, "drain_timeout": 2.0, **options})
    lifecycle, listener = Lifecycle(api), listen(config)
    server = DrainingServer(build_app(lifecycle, config), lifecycle, config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Running(listener.getsockname()[1], lifecycle)
    finally:
        lifecycle.drain()
        thread.join(20)
        assert not thread.is_alive(), "the server did not end"


def wait_until(condition: Callable[[], bool], timeout: float = 10, pause: float = 0.005) -> None:
    """Poll for what another thread or process will do."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(pause)


def timeless(reply: Reply) -> dict[str, Any]:
    """A completion without what may differ: speed, slot, and what lay in the cache."""
    assert reply.status == 200, reply
    result: dict[str, Any] = reply.json
    return {key: result[key] for key in result if key not in {"timings", "slot_id", "id_slot"}}


def check_unharmed(server: Running, reference: dict[str, Any]) -> None:
    """The server is healthy and answers `REFERENCE` as before."""
    assert server.get("/health").json == {"status": "ok"}
    assert timeless(server.post("/completion", REFERENCE)) == reference
