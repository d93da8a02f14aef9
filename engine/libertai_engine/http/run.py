"""Listening, signals, draining: the life of the server's process around the app.

In: an app, its lifecycle and configuration. Out: returns when the server has ended.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from functools import partial
from types import FrameType
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from libertai_engine.config import ServerConfig
from libertai_engine.errors import EngineError
from libertai_engine.http.checks import MAX_HEADER_BYTES, MAX_TARGET_BYTES
from libertai_engine.http.lifecycle import Lifecycle
from libertai_engine.http.protocol import GuardedProtocol

KEEP_ALIVE_SECONDS = 75
LAST_WORDS_SECONDS = 2  # for connections to take their last event after the drain time is over

log = logging.getLogger(__name__)


class CannotListen(EngineError):
    """The address cannot be bound: in use, not ours, or not allowed."""


def listen(config: ServerConfig) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `CannotListen`."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        config.host.encode("idna")  # NOTE: if that fails, `create_server` leaves a socket open
        return socket.create_server((config.host, config.port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        message = f"cannot listen on {config.host} port {config.port}: {reason}"
        raise CannotListen(message) from None


class DrainingServer(uvicorn.Server):
    """uvicorn, told when to end: a signal drains, a second one ends the process at once.

    While it drains the socket stays open, so that new requests get 503 and not a refused
    connection. It ends when no request is left or the drain time is over.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle, config: ServerConfig) -> None:
        super().__init__(_uvicorn_config(app, config))
        self._lifecycle = lifecycle
        self._drain_timeout = config.drain_timeout
        self._drain_until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called for SIGTERM and SIGINT."""
        if self._lifecycle.is_draining:
            os._exit(128 + sig)
        self._lifecycle.drain()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; true ends the server."""
        should_exit = await super().on_tick(counter)
        return should_exit or (self._lifecycle.is_draining and self._is_drained())

    def _is_drained(self) -> bool:
        now = time.monotonic()
        if self._drain_until is None:
            self._drain_until = now + self._drain_timeout
            log.info("draining: %d requests still run", self._lifecycle.num_requests)
        if self._lifecycle.num_requests and now < self._drain_until:
            return False
        self._lifecycle.stopped.set()
        return True


def _uvicorn_config(app: ASGIApp, config: ServerConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="asyncio",
        # NOTE: uvicorn only ever calls what its annotation wants to be a class.
        http=cast("type", partial(GuardedProtocol, receive_timeout=config.receive_timeout)),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=[("server", "libertai-engine")],
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=LAST_WORDS_SECONDS,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES + MAX_TARGET_BYTES,
    )
