"""HTTP/1.1 connections: uvicorn's own, made strict about slow and malformed requests.

In: bytes of a client one does not trust. Out: ASGI scopes; JSON refusals of what is not HTTP.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from libertai_engine.http.answers import Refusal, error_object, invalid, json_bytes

MAX_EARLY_BYTES = 64 << 10  # of further requests, taken while one is being answered


class GuardedProtocol(H11Protocol):
    """One connection. While a request's head is awaited, a timer runs that closes it.

    `scope["state"]["abort"]` cuts the connection off without flushing what is still to be sent.
    """

    def __init__(self, *, receive_timeout: float, **uvicorn_options: Any) -> None:
        super().__init__(**uvicorn_options)
        self._receive_timeout = receive_timeout
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "abort": transport.abort}
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, by whomever."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes have arrived; part of a head starts the timer, a whole one stops it."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._head_timer is None:
            self._start_timer()
        self._stay_attentive()

    def _stay_attentive(self) -> None:
        """Read on behind a request, although what comes waits: who does not, hears no one leave."""
        if not self.flow.read_paused or self.conn.their_state is h11.SEND_BODY:
            return
        if len(self.conn.trailing_data[0]) <= MAX_EARLY_BYTES:
            self.flow.resume_reading()

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(self._receive_timeout, self._head_is_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        message = f"no request within {self._receive_timeout:g} s"
        self._refuse(Refusal(408, "timeout_error", message))

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP/1.1. Called by uvicorn while it handles h11's exception."""
        status = getattr(sys.exc_info()[1], "error_status_hint", 400)
        if status == 431 and b"\n" not in self.conn.trailing_data[0]:
            status = 414
        self._refuse(invalid("the request is not valid HTTP/1.1, or its head is too large", status))

    def _refuse(self, refusal: Refusal) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # from here on the answer is ours
            self.cycle.message_event.set()
        if self.transport.is_closing() or self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        body = json_bytes(error_object(refusal))
        headers: list[tuple[bytes, bytes]] = [
            (b"content-type", b"application/json; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        response = h11.Response(
            status_code=refusal.status, headers=headers, reason=STATUS_PHRASES[refusal.status]
        )
        events: tuple[Any, ...] = (response, h11.Data(data=body), h11.EndOfMessage())
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()
