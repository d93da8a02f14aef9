"""The layer around all routes: checks in front, one error shape behind, one log line per request.

In: every HTTP request. Out: the route's answer, or the refusal's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from libertai_engine.config import ServerConfig
from libertai_engine.errors import EngineError
from libertai_engine.http import checks
from libertai_engine.http.answers import ClientGone, Refusal, error_answer
from libertai_engine.http.dialect import dialect_of
from libertai_engine.http.lifecycle import Lifecycle

HEALTH = "/health"
CLIENT_GONE_STATUS = 499  # what the log says when nobody was left to answer
LINGER_SECONDS = 1.0  # how long what a refused client still sends is read and dropped
MAX_LOGGED_PATH = 200

log = logging.getLogger(__name__)


class Guard:
    """ASGI middleware. Whatever happens inside, the client gets one well-formed answer."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle, config: ServerConfig) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        exchange = _Exchange(scope, receive, send, self._config)
        self._lifecycle.num_requests += 1
        try:
            await self._answer(exchange)
        except ClientGone:
            exchange.status = CLIENT_GONE_STATUS
        except Exception as error:
            if not isinstance(error, (EngineError, Refusal)):
                log.exception("unexpected error in %s", exchange.name)
            await exchange.fail(error)
        finally:
            self._lifecycle.num_requests -= 1
            # Whoever watches the server asks every few seconds.
            level = logging.DEBUG if scope["path"] == HEALTH else logging.INFO
            log.log(level, "%s %s %.0f ms", exchange.name, exchange.status, exchange.milliseconds)

    async def _answer(self, exchange: _Exchange) -> None:
        scope, headers = exchange.scope, exchange.headers
        checks.check_head(scope)
        checks.check_host(headers, self._config)
        if scope["method"] == "OPTIONS":
            requested = headers.get("access-control-request-headers")
            preflight = Response(headers=checks.preflight_headers(requested))
            return await preflight(scope, exchange.receive, exchange.send)
        if scope["path"] != HEALTH:
            checks.check_key(headers, self._config.api_keys)
        await self._app(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its answer as they pass. Knows what has been read and sent so far."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, config: ServerConfig) -> None:
        self.scope = scope
        self.headers = Headers(scope=scope)
        self.status: int | str = "-"
        self._receive = receive
        self._send = send
        self._config = config
        self._started = time.monotonic()
        self._has_body = bool({"content-length", "transfer-encoding"} & set(self.headers.keys()))
        self._is_complete = False

    @property
    def name(self) -> str:
        """Method and path for the log, without control characters and of bounded length."""
        text = f"{self.scope['method']} {self.scope['path']}"[:MAX_LOGGED_PATH]
        return text.encode("unicode_escape").decode()

    @property
    def milliseconds(self) -> float:
        """Time since the request's head arrived."""
        return (time.monotonic() - self._started) * 1000

    async def receive(self) -> Message:
        """The next message of the client."""
        message = await self._receive()
        if not message.get("more_body", False):
            self._has_body = False
        return message

    async def send(self, message: Message) -> None:
        """Send on, with the CORS headers added."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            origin = self.headers.get("origin")
            MutableHeaders(scope=message).update(checks.cors_headers(origin, self._config))
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._is_complete = True

    async def fail(self, error: Exception) -> None:
        """Answer with the error; if an answer has begun that cannot be ended, cut it off."""
        if self.status == "-":
            await self._refuse(error)
        elif not self._is_complete:
            abort = self.scope.get("state", {}).get("abort")
            if abort is not None:
                abort()

    async def _refuse(self, error: Exception) -> None:
        answer = error_answer(error, dialect_of(self.scope["path"]).error)
        start: dict[str, Any] = {"status": answer.status_code, "headers": answer.raw_headers}
        if self._has_body:  # what is still to come would be taken for the next request
            start["headers"] = [*answer.raw_headers, (b"connection", b"close")]
        await self.send({"type": "http.response.start", **start})
        await self.send({"type": "http.response.body", "body": answer.body, "more_body": True})
        # NOTE: closing while the client still sends would reset the connection and take the
        # answer with it before the client has read it.
        patience = 0.0 if answer.status_code == 408 else LINGER_SECONDS
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drop_body(), patience)
        await self.send({"type": "http.response.body", "body": b""})

    async def _drop_body(self) -> None:
        while self._has_body:
            await self.receive()
