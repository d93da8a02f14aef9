"""Connections that keep the limits of a call at every step, which urllib3's own do not.

In: the adapter of a `requests.Session`, and with each request a `ConnectLimit`. Out: sockets that
connect within the one limit, and send and are read within the limits of the whole call.
"""

from __future__ import annotations

import socket
from functools import partial
from http.client import HTTPResponse
from typing import Any, cast

from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from libertai_llm.timeouts import Deadlines


class ConnectLimit(float):
    """Seconds until a connection stands, for urllib3.

    Invariant: `deadlines` is the clock of the same attempt, which goes on after that.
    """

    deadlines: Deadlines

    @classmethod
    def of(cls, deadlines: Deadlines) -> ConnectLimit | None:
        """What is left for connecting now; None if there is no limit at all."""
        seconds = deadlines.connect
        if seconds is None:
            return None
        limit = cls(seconds)
        limit.deadlines = deadlines
        return limit


class TimedAdapter(HTTPAdapter):
    """`requests`' own adapter, but for the limits under which it sends, and reads the head.

    NOTE: urllib3 sends under the limit for connecting. A large body over a slow line, or to a
    server that is too busy to read it at once, takes longer than that. And it waits anew for every
    piece of the head.
    """

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """As always, with our pools."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}


class _HTTPPool(HTTPConnectionPool):
    """Invariant: a connection stands before a request is sent over it."""

    def _validate_conn(self, conn: Any) -> None:
        if conn.is_closed:
            conn.connect()
        super()._validate_conn(conn)
        _leave_connecting(conn)


class _HTTPSPool(HTTPSConnectionPool):
    """Invariant: as for `_HTTPPool`; here urllib3 connects by itself."""

    def _validate_conn(self, conn: Any) -> None:
        super()._validate_conn(conn)
        _leave_connecting(conn)


def _leave_connecting(conn: Any) -> None:
    """From here on the limits of the whole call hold."""
    conn.response_class = HTTPResponse
    if isinstance(conn.timeout, ConnectLimit):
        deadlines = conn.timeout.deadlines
        conn.timeout = deadlines.remaining
        conn.response_class = partial(_timed_response, deadlines)


def _timed_response(deadlines: Deadlines, *args: Any, **options: Any) -> HTTPResponse:
    """http.client's response, whose head comes in time."""
    response = HTTPResponse(*args, **options)
    keep_time(response.fp, deadlines)
    return response


def keep_time(reader: Any, deadlines: Deadlines) -> None:
    """Let all that http.client's buffer reads from now on end with the limits.

    NOTE: a socket's own time-out begins anew with every byte that comes, so what the buffer takes
    its bytes from is exchanged. A recording being replayed has no socket, and nothing to wait for.
    """
    source = getattr(reader, "raw", None)
    sock = getattr(source, "_sock", None)
    if isinstance(sock, socket.socket):
        sock = cast(Any, source)._sock = _TimedSocket(sock, deadlines)
    if isinstance(sock, _TimedSocket):
        sock.deadlines = deadlines


class _TimedSocket:
    """A socket as http.client's reader knows it, with limits.

    Invariant: nothing is waited for beyond `deadlines`, however often one read asks for more bytes,
    as it does for the lines between chunks, which a server may send byte by byte or without end.
    """

    def __init__(self, sock: socket.socket, deadlines: Deadlines) -> None:
        self._sock = sock
        self.deadlines = deadlines

    def recv_into(self, buffer: Any) -> int:
        """Wait for bytes. Raises `TimeoutError`."""
        self.deadlines.check()
        self._sock.settimeout(self.deadlines.remaining)
        return self._sock.recv_into(buffer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)
