"""The asynchronous HTTP transport, on `httpx`. Loaded only when it is used.

In: routes and JSON bodies. Out: JSON objects. The twin of `http_sync`: what the bytes mean is
decided elsewhere; here they are only moved, and clocks are kept.
"""

from __future__ import annotations

import asyncio
import copy
import ssl
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import Any

import anyio
import httpx

from libertai_llm.endpoint import MAX_REDIRECTS, REDIRECTS, Endpoint, HTTPRequest, origin_of
from libertai_llm.errors import (
    ConnectError,
    IncompleteStream,
    InvalidReply,
    LibertaiError,
    TransportError,
)
from libertai_llm.replies import (
    MAX_ERROR_BYTES,
    MAX_REPLY_BYTES,
    check_coding,
    http_error,
    is_events,
    page_timeouts,
    read_object,
    read_reply,
)
from libertai_llm.session import Session, copy_cookies, new_jar
from libertai_llm.sse import EventReader
from libertai_llm.timeouts import Deadlines, Timeouts
from libertai_llm.transport import JSON, Reply

MAX_IDLE_CONNECTIONS = 64
DRAIN_SECONDS = 0.2
# The server of 2023 drops idle connections after 5 s; using one at that moment would fail.
KEEP_ALIVE_SECONDS = 4.0


class AsyncHTTPTransport:
    """One server over HTTP, from any number of event loops.

    Invariant: each running loop has its own connection pool, closed with the loop; conversations
    share the pool, never cookies. An `httpx.AsyncClient` of the caller's is used with everything it
    has, and left open; its cookies belong to the `default` conversation, and every other one begins
    with a copy of them. A client of our own takes nothing from the environment.
    """

    def __init__(self, endpoint: Endpoint, *, http_client: httpx.AsyncClient | None = None) -> None:
        self.endpoint = endpoint
        self._given = http_client
        given = new_jar() if http_client is None else http_client.cookies.jar
        self.default = Session(cookies=given, owns_cookies=http_client is None)
        self._given_cookies = new_jar()
        copy_cookies(given, self._given_cookies)
        self._pools = _LoopPools()

    @property
    def target(self) -> str:
        """The server's address."""
        return self.endpoint.base_url

    async def request(
        self, method: str, path: str, body: JSON | None, *, session: Session, timeouts: Timeouts
    ) -> Reply:
        """One answer. Raises `LibertaiError`."""
        deadlines = Deadlines(timeouts)
        request = self.endpoint.request(method, path, body)
        async with self._open(request, path, session, deadlines) as response:
            return read_reply(await _read_all(response, deadlines, MAX_REPLY_BYTES))

    async def stream(
        self, path: str, body: JSON, *, session: Session, timeouts: Timeouts
    ) -> AsyncGenerator[JSON, None]:
        """The JSON objects of a stream. Raises `LibertaiError`; closing it closes the socket."""
        deadlines = Deadlines(timeouts)
        request = self.endpoint.request("POST", path, body, is_stream=True)
        async with self._open(request, path, session, deadlines) as response:
            if not is_events(response.headers.get("Content-Type")):
                yield read_object(await _read_all(response, deadlines, MAX_REPLY_BYTES))
                return
            async with aclosing(_read_events(response, deadlines)) as events:
                async for item in events:
                    yield item

    async def aclose(self) -> None:
        """Close the pools of all loops; a client of the caller's is left alone.

        A call that still waits for its answer ends with a `LibertaiError`.
        """
        await self._pools.aclose()

    @asynccontextmanager
    async def _open(
        self, request: HTTPRequest, path: str, session: Session, deadlines: Deadlines
    ) -> AsyncIterator[httpx.Response]:
        """A good answer whose body has not been read yet; closed in the end."""
        base = self._given or await self._pools.client()
        with _closed_while_waiting(base):
            response = await self._follow(base, request, session, deadlines)
            try:
                check_coding(response.headers.get("Content-Encoding"))
                if not response.is_success:
                    page = await _read_page(response, deadlines)
                    raise http_error(response.status_code, response.headers, page, path)
                yield response
            finally:
                await response.aclose()

    async def _follow(
        self,
        base: httpx.AsyncClient,
        request: HTTPRequest,
        session: Session,
        deadlines: Deadlines,
    ) -> httpx.Response:
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._send(base, request, session, deadlines)
            if response.status_code not in REDIRECTS:
                session.on_answer_from(origin_of(request.url))
                return response
            await response.aclose()
            request = request.redirected(response.headers.get("Location"))
        raise InvalidReply(f"more than {MAX_REDIRECTS} redirects")

    async def _send(
        self,
        base: httpx.AsyncClient,
        request: HTTPRequest,
        session: Session,
        deadlines: Deadlines,
    ) -> httpx.Response:
        deadlines.check()
        http = self._at_home(base, session) if request.is_home else _abroad(base)
        try:
            with anyio.fail_after(deadlines.remaining):
                message = http.build_request(
                    request.method,
                    request.url,
                    content=request.body,
                    headers=request.all_headers,
                    timeout=httpx.Timeout(None, connect=deadlines.connect),
                )
                auth = _keep_headers if self._keeps_authorization(request) else None
                options = {} if auth is None else {"auth": auth}
                return await http.send(message, stream=True, follow_redirects=False, **options)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
            raise _failure(error, deadlines) from error

    def _keeps_authorization(self, request: HTTPRequest) -> bool:
        return self.endpoint.has_authorization or not request.is_home

    def _at_home(self, base: httpx.AsyncClient, session: Session) -> httpx.AsyncClient:
        """The base client with the conversation's cookies instead of its own."""
        if session is not self.default and not session.has_answered:
            copy_cookies(self._given_cookies, session.cookies)
        return _twin(base, session.cookies)


class _LoopPools:
    """An `httpx.AsyncClient` for each running event loop.

    Invariant: a client is used in its own loop only, and closed there: by `aclose`, or when the
    loop shuts down its asynchronous generators, which `asyncio.run` does before it closes the loop.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}
        self._keepers: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}

    async def client(self) -> httpx.AsyncClient:
        """The client of the running loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            client = self._clients.get(loop)
            if client is not None:
                return client
            self._forget_closed_loops()
            client = self._clients[loop] = _new_client()
            keeper = self._keepers[loop] = self._keep(loop, client)
        await anext(keeper)
        return client

    async def aclose(self) -> None:
        """Close all: here at once, elsewhere as soon as that loop gets to it."""
        here = asyncio.get_running_loop()
        with self._lock:
            keepers = list(self._keepers.items())
        for loop, keeper in keepers:
            if loop is here:
                await keeper.aclose()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(keeper.aclose(), loop)

    async def _keep(
        self, loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient
    ) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            with self._lock:
                self._clients.pop(loop, None)
                self._keepers.pop(loop, None)
            await client.aclose()

    def _forget_closed_loops(self) -> None:
        for loop in [each for each in self._clients if each.is_closed()]:
            del self._clients[loop], self._keepers[loop]


def _new_client() -> httpx.AsyncClient:
    limits = httpx.Limits(
        max_connections=None,
        max_keepalive_connections=MAX_IDLE_CONNECTIONS,
        keepalive_expiry=KEEP_ALIVE_SECONDS,
    )
    return httpx.AsyncClient(trust_env=False, limits=limits)


def _twin(base: httpx.AsyncClient, cookies: Any) -> httpx.AsyncClient:
    """A client that shares everything with another one, except for the cookies."""
    twin = copy.copy(base)
    # NOTE: httpx keeps this very jar, so what a server sets is the conversation's at once.
    twin.cookies = cookies
    return twin


def _abroad(base: httpx.AsyncClient) -> httpx.AsyncClient:
    """For a server that we were sent to: the same connections, none of the secrets."""
    twin = _twin(base, new_jar())
    twin.headers = httpx.Headers()
    twin.params = httpx.QueryParams()
    return twin


def _keep_headers(request: httpx.Request) -> httpx.Request:
    """An `auth` that adds nothing, and keeps httpx from adding what .netrc says."""
    return request


@contextmanager
def _closed_while_waiting(base: httpx.AsyncClient) -> Iterator[None]:
    """A call whose connections were closed under it was not cut by the server: no further try.

    NOTE: a closed client of the caller's says so with a `RuntimeError` of httpx's.
    """
    try:
        yield
    except (TransportError, RuntimeError) as error:
        if not base.is_closed:
            raise
        if isinstance(error, RuntimeError):
            raise LibertaiError("the client is closed") from error
        closed = LibertaiError("the client was closed while it waited for the answer")
        closed.has_begun = error.has_begun
        raise closed from error


def _failure(error: Exception, deadlines: Deadlines) -> TransportError:
    """Our error for what went wrong before the answer began."""
    if isinstance(error, httpx.ConnectTimeout):
        return deadlines.error(is_connecting=True)
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return deadlines.error()
    if isinstance(error, httpx.InvalidURL) or "location header" in str(error):
        # NOTE: httpx reads the address that a redirect names even if it is not to go there.
        return InvalidReply("the server redirects to no address of the web")
    cause = _innermost(error)
    reason = _reason(cause)
    if isinstance(cause, ssl.SSLError):
        return ConnectError(f"no secure connection: {reason}", is_retryable=False)
    if isinstance(error, (httpx.NetworkError, httpx.ProtocolError, OSError)):
        return ConnectError(f"no answer: {reason}")
    return ConnectError(f"the request could not be sent: {reason}", is_retryable=False)


def _innermost(error: BaseException) -> BaseException:
    """The failure under the failures."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _reason(error: BaseException) -> str:
    """The kind of a failure and its words."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


async def _read_events(
    response: httpx.Response, deadlines: Deadlines
) -> AsyncGenerator[JSON, None]:
    reader = EventReader()
    body = response.aiter_bytes()
    try:
        while not reader.is_done and (piece := await _read(body, deadlines, reader.has_begun)):
            for item in reader.push(piece):
                yield item
                # The clock starts when the caller comes back: its own time is not the server's.
                deadlines.on_event()
        for item in reader.close():
            yield item
    finally:
        if reader.is_done:
            await _drain(body)


async def _read_all(response: httpx.Response, deadlines: Deadlines, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    body = response.aiter_bytes()
    while piece := await _read(body, deadlines, bool(pieces)):
        deadlines.on_event()
        pieces.append(piece)
        size += len(piece)
        if size > max_bytes:
            raise InvalidReply(f"the answer is larger than {max_bytes} bytes")
    return b"".join(pieces)


async def _read_page(response: httpx.Response, deadlines: Deadlines) -> bytes:
    """The body of a refusal, as far as it comes soon: it only explains."""
    pieces: list[bytes] = []
    limits = Deadlines(page_timeouts(deadlines.remaining))
    body = response.aiter_bytes()
    with suppress(LibertaiError):
        while sum(map(len, pieces)) < MAX_ERROR_BYTES:
            piece = await _read(body, limits, False)
            if not piece:
                break
            pieces.append(piece)
    return b"".join(pieces)


async def _read(body: AsyncIterator[bytes], deadlines: Deadlines, has_begun: bool) -> bytes:
    """What has arrived, waiting for at least a byte until the next limit; b"" at the end."""
    deadlines.check()
    try:
        with anyio.fail_after(deadlines.remaining):
            return await anext(body, b"")
    except TimeoutError as error:
        raise deadlines.error() from error
    except (httpx.HTTPError, OSError) as error:
        message = f"the answer was cut: {_reason(_innermost(error))}"
        raise IncompleteStream(message, has_begun=has_begun) from error


async def _drain(body: AsyncIterator[bytes]) -> None:
    """After the last event: take the end of the body, so that the connection can be used again."""
    with suppress(httpx.HTTPError, OSError), anyio.move_on_after(DRAIN_SECONDS):
        async for _ in body:
            pass
