"""Connections whose limit for connecting does not limit what is sent over them.

In: the adapter of a `requests.Session`, and with each request a `ConnectLimit`. Out: sockets that
connect within the one limit, and send within the limits of the whole call.
"""

from __future__ import annotations

from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
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


class PatientAdapter(HTTPAdapter):
    """`requests`' own adapter, but for the limit under which it sends.

    NOTE: urllib3 sends under the limit for connecting. A large body over a slow line, or to a
    server that is too busy to read it at once, takes longer than that.
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


def _leave_connecting(conn: HTTPConnection) -> None:
    """From here on the limits of the whole call hold."""
    if isinstance(conn.timeout, ConnectLimit):
        conn.timeout = conn.timeout.deadlines.remaining
