"""What the routes have in common: a body within limits, work that is watched, one answer.

In: requests, and methods of the APIs. Out: responses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from libertai_engine.config import ServerConfig
from libertai_engine.http.answers import JSONAnswer, LargeAnswer, has_probabilities
from libertai_engine.http.body import read_object
from libertai_engine.http.dialect import dialect_of
from libertai_engine.http.exchange import EventStream, Watch
from libertai_engine.http.lifecycle import Lifecycle

if TYPE_CHECKING:
    from libertai_engine.api import CompletionAPI


class Service:
    """Answers requests by calling methods. Reads each body before anybody is asked anything."""

    def __init__(self, lifecycle: Lifecycle, config: ServerConfig) -> None:
        self._lifecycle = lifecycle
        self.config = config

    @property
    def api(self) -> CompletionAPI:
        """The llama-like API. Raises `EngineUnavailable` while loading and draining."""
        return self._lifecycle.api

    async def body(self, request: Request) -> dict[str, Any]:
        """The JSON object that was sent. Raises `Refusal`."""
        config = self.config
        is_seen = self._lifecycle.sees_images
        max_bytes = config.max_image_body_bytes if is_seen else config.max_body_bytes
        return await read_object(request, max_bytes, config.receive_timeout)

    async def call(self, method: Callable[[Any], Any], request: Request) -> Response:
        """What a quick method makes of the body, called in a thread."""
        body = await self.body(request)
        return JSONAnswer(await asyncio.to_thread(method, body))

    async def wait(self, request: Request, answer: Coroutine[Any, Any, Any]) -> Response:
        """What a coroutine answers that may wait long.

        It ends early if the client leaves, its time is over or the server stops.
        """
        watch = Watch(request.receive, self._lifecycle, self.config.request_timeout)
        return JSONAnswer(await watch.supervise(answer))

    async def work(
        self, request: Request, method: Callable[[Any], Coroutine[Any, Any, Any]]
    ) -> Response:
        """What a coroutine makes of the body, as a whole.

        It ends early if the client leaves, its time is over or the server stops. The answer may be
        large, so a thread writes it.
        """
        body = await self.body(request)
        watch = Watch(request.receive, self._lifecycle, self.config.request_timeout)
        answer = await watch.supervise(method(body))
        return await asyncio.to_thread(LargeAnswer, answer)

    async def generate(
        self,
        request: Request,
        whole: Callable[[Any], Coroutine[Any, Any, Any]],
        streamed: Callable[[Any], AsyncGenerator[Any, None]],
    ) -> Response:
        """A generated answer, as a whole or as events, as the body's `stream` wishes.

        It ends early if the client leaves, its time is over or the server stops.
        """
        body = await self.body(request)
        config, dialect = self.config, dialect_of(request.url.path)
        if self.api.wants_stream(body):
            items = streamed(body)
            return EventStream(
                items, self._lifecycle, config.request_timeout, config.ping_interval, dialect
            )
        watch = Watch(request.receive, self._lifecycle, config.request_timeout)
        answer = await watch.supervise(whole(body))
        if has_probabilities(answer):
            return await asyncio.to_thread(LargeAnswer, answer)
        return JSONAnswer(answer)
