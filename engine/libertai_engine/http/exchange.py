"""The engine's work for one request, watched: the client may leave, time may run out.

In: a coroutine or an async iterator of the API. Out: its result, or server-sent events.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from libertai_engine.errors import EngineUnavailable
from libertai_engine.http.answers import ClientGone, Refusal, json_bytes
from libertai_engine.http.dialect import LLAMA, Dialect
from libertai_engine.http.lifecycle import STOPPING, Lifecycle

T = TypeVar("T")
FAREWELL_SECONDS = 1.0  # how long a client that does not read may hold back the last event


class Watch:
    """What can end a request early: the client leaves, its time is over, the server stops.

    `timeout` is in seconds from now. Work given to `supervise` never outlives the call.
    """

    def __init__(self, receive: Receive, lifecycle: Lifecycle, timeout: float) -> None:
        self._receive = receive
        self._lifecycle = lifecycle
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout

    async def supervise(
        self,
        coroutine: Coroutine[Any, Any, T],
        *,
        tick: float | None = None,
        on_tick: Callable[[], Awaitable[None]] | None = None,
    ) -> T:
        """The coroutine's result; `on_tick` is awaited every `tick` seconds until then.

        Raises what the coroutine raises, `ClientGone`, `Refusal` 504 and `EngineUnavailable`;
        in all cases the coroutine has been cancelled and has ended before.
        """
        work = asyncio.create_task(coroutine)
        gone = asyncio.create_task(self._until_gone())
        stopped = asyncio.create_task(self._lifecycle.stopped.wait())
        try:
            while True:
                await asyncio.wait(
                    {work, gone, stopped},
                    timeout=min(self._remaining(), tick or self._timeout),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if work.done():
                    return work.result()
                self._raise_if_over(gone, stopped)
                if on_tick is not None:
                    await self.in_time(on_tick())
        finally:
            await _end(work, gone, stopped)

    async def in_time(self, sending: Awaitable[None]) -> None:
        """Wait for `sending`: a client that reads nothing blocks even a ping. Raises `Refusal`."""
        try:
            await asyncio.wait_for(sending, self._remaining())
        except asyncio.TimeoutError:
            raise self._too_late() from None

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _remaining(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _too_late(self) -> Refusal:
        return Refusal(504, "timeout_error", f"no end within {self._timeout:g} s")

    def _raise_if_over(self, gone: asyncio.Task[None], stopped: asyncio.Task[Any]) -> None:
        if gone.done():
            raise ClientGone
        if stopped.done():
            raise EngineUnavailable(STOPPING, retry_after=5)
        if self._remaining() <= 0:
            raise self._too_late()


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class EventStream(Response):
    """Server-sent events, one per item; comment lines while there is nothing to send.

    The status line is sent with the first item or the first ping: an error before that is raised,
    so that it becomes an ordinary HTTP error; a later one is the last event. A stream never ends
    without its last item or an error event, and is never silent for more than `ping` seconds.
    """

    def __init__(
        self,
        items: AsyncGenerator[Any, None],
        lifecycle: Lifecycle,
        timeout: float,
        ping: float,
        dialect: Dialect = LLAMA,
    ) -> None:
        super().__init__(
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        del self.headers["content-length"]
        self._items = items
        self._lifecycle = lifecycle
        self._timeout = timeout
        self._dialect = dialect
        self._pause = ping / 2  # two pauses without a byte make the longest silence
        self._is_started = False
        self._is_sending = False
        self._last_send = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the whole stream.

        Raises `ClientGone`, and every error: one that precedes the first byte for somebody else
        to answer, a later one after it has been sent as the last event.
        """
        watch = Watch(receive, self._lifecycle, self._timeout)
        try:
            await watch.supervise(
                self._pump(send), tick=self._pause, on_tick=lambda: self._ping(send)
            )
            await watch.in_time(send({"type": "http.response.body", "body": self._dialect.end}))
        except ClientGone:
            raise
        except Exception as error:
            if self._is_started:
                await self._farewell(send, error)
            raise

    async def _pump(self, send: Send) -> None:
        async with contextlib.aclosing(self._items) as items:
            async for item in items:
                await self._send(send, _event(item))

    async def _ping(self, send: Send) -> None:
        is_silent = time.monotonic() - self._last_send >= self._pause
        if is_silent and not self._is_sending:
            await self._send(send, b": ping\n\n")

    async def _send(self, send: Send, body: bytes) -> None:
        self._is_sending = True
        try:
            if not self._is_started:
                start = {"status": self.status_code, "headers": self.raw_headers}
                await send({"type": "http.response.start", **start})
                self._is_started = True
            await send({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            self._is_sending = False
            self._last_send = time.monotonic()

    async def _farewell(self, send: Send, error: Exception) -> None:
        last = {"type": "http.response.body", "body": _event(self._dialect.error(error))}
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(send(last), FAREWELL_SECONDS)


def _event(value: Any) -> bytes:
    return b"data: " + json_bytes(value) + b"\n\n"
