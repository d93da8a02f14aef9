"""A real HTTP server on a real socket that answers byte for byte what a test tells it to.

In: a script, called with each request, giving steps: bytes to send, seconds to wait, or a verb.
Out: the requests it got, and whether clients hung up on it.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any


class Verb(Enum):
    """What a script can do besides sending and waiting."""

    CLOSE = "close the connection in order"
    RESET = "cut the connection without a word"
    AWAIT_HANGUP = "wait until the client closes, and note it"


Step = bytes | float | Verb
Script = Callable[["Asked"], Iterable[Step]]


@dataclass(frozen=True)
class Asked:
    """A request as it arrived. Header names are in lower case; `client` is its connection."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    client: tuple[str, int]
    number: int

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class ScriptedServer:
    """Serves until `close`. Invariant: `asked` holds every request, in the order of arrival."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.hung_up = threading.Event()
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The JSON bodies of all requests."""
        return [asked.json for asked in self.asked]

    @property
    def num_connections(self) -> int:
        """How many different connections brought requests."""
        return len({asked.client for asked in self.asked})

    def close(self) -> None:
        self._is_closing.set()
        with self._lock:
            connections = list(self._connections)
        # NOTE: shutdown, not close, wakes a thread that waits in accept or recv.
        for each in (self._socket, *connections):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._socket.close()

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._is_closing.is_set():
            try:
                connection, address = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection, address), daemon=True)
            with self._lock:
                self._connections.append(connection)
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, address: tuple[str, int]) -> None:
        try:
            with connection, connection.makefile("rb") as reader:
                while (asked := self._read(connection, reader, address)) is not None:
                    if not self._answer(connection, asked):
                        return
        except OSError:
            self.hung_up.set()

    def _read(
        self, connection: socket.socket, reader: Any, address: tuple[str, int]
    ) -> Asked | None:
        line = reader.readline()
        if not line.rstrip().endswith(b"HTTP/1.1"):
            # The end, or a client that speaks TLS: say so as other servers do.
            connection.sendall(head(400) if line else b"")
            return None
        first = line.decode().split()
        headers = {}
        while (line := reader.readline().decode("latin-1").strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = reader.read(int(headers.get("content-length", 0)))
        with self._lock:
            asked = Asked(first[0], first[1], headers, body, address, len(self.asked))
            self.asked.append(asked)
        return asked

    def _answer(self, connection: socket.socket, asked: Asked) -> bool:
        """Play the script; false if the connection is over."""
        for step in self.script(asked):
            if isinstance(step, bytes):
                connection.sendall(step)
            elif isinstance(step, float):
                self._is_closing.wait(step)
            elif step is Verb.AWAIT_HANGUP:
                self._await_hangup(connection)
                return False
            else:
                if step is Verb.RESET:
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return False
        return True

    def _await_hangup(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        try:
            if connection.recv(1) == b"" and not self._is_closing.is_set():
                self.hung_up.set()
        except TimeoutError:
            return
        except OSError:
            self.hung_up.set()


def head(
    status: int = 200, headers: Sequence[tuple[str, str]] = (), content_type: str | None = None
) -> bytes:
    """The first lines of an answer, up to the empty one."""
    lines = [f"HTTP/1.1 {status} Said So"]
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    lines.extend(f"{name}: {value}" for name, value in headers)
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def whole(
    content: Any,
    status: int = 200,
    headers: Sequence[tuple[str, str]] = (),
    content_type: str = "application/json",
) -> bytes:
    """A complete answer with a length; what is not bytes goes as JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    sized = [*headers, ("Content-Length", str(len(body)))]
    return head(status, sized, content_type) + body


def stream_head(headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """The first lines of a chunked stream."""
    return head(200, [*headers, ("Transfer-Encoding", "chunked")], "text/event-stream")


def piece(data: bytes) -> bytes:
    """One piece of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM_END = b"0\r\n\r\n"


def event(item: Any, prefix: bytes = b"data: ") -> bytes:
    """One event of a stream, as a piece of a chunked body."""
    return piece(prefix + json.dumps(item).encode() + b"\n\n")


def stream(*items: Any, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """A complete streamed answer."""
    return stream_head(headers) + b"".join(event(item) for item in items) + STREAM_END


def said(text: str, **more: Any) -> dict[str, Any]:
    """An event of a stream that goes on."""
    return {"content": text, "stop": False, "slot_id": 0, **more}


def final(text: str = "", **more: Any) -> dict[str, Any]:
    """A last event, or a whole answer."""
    return {"content": text, "stop": True, "slot_id": 0, "stopped_eos": True, **more}


def wait_until(is_true: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Poll for something that another thread does."""
    end = time.monotonic() + seconds
    while not is_true() and time.monotonic() < end:
        time.sleep(0.005)
    return is_true()
