"""The blocking HTTP transport, on `requests`.

In: routes and JSON bodies. Out: JSON objects. What the bytes mean is decided elsewhere (`sse`,
`replies`, `endpoint`); here they are only moved, and clocks are kept.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import requests
import urllib3

from libertai_llm.endpoint import MAX_REDIRECTS, REDIRECTS, Endpoint, HTTPRequest, origin_of
from libertai_llm.errors import (
    ConnectError,
    IncompleteStream,
    InvalidReply,
    LibertaiError,
    TransportError,
)
from libertai_llm.http_pools import ConnectLimit, TimedAdapter, keep_time
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

POOL_SIZE = 64
READ_BYTES = 1 << 16
DRAIN_SECONDS, MAX_DRAIN_READS = 0.2, 4


class HTTPTransport:
    """One server over HTTP. Safe from many threads.

    Invariant: connections are shared by all conversations, cookies by none. A `requests.Session` of
    the caller's is used with everything it has (headers, auth, proxies, verify, adapters); its
    cookies belong to the `default` conversation, and every other one begins with a copy of them.
    A session of our own takes nothing from the environment: no proxies, no .netrc.
    A forked process never uses its parent's connections, whose answers would get mixed up.
    """

    def __init__(self, endpoint: Endpoint, *, session: requests.Session | None = None) -> None:
        self.endpoint = endpoint
        self._is_ours = session is None
        self._base = _new_session() if session is None else session
        self.default = Session(cookies=self._base.cookies, owns_cookies=self._is_ours)
        self._given_cookies = new_jar()
        copy_cookies(self._base.cookies, self._given_cookies)
        self._process = os.getpid()
        self._fork_lock = threading.Lock()

    @property
    def target(self) -> str:
        """The server's address."""
        return self.endpoint.base_url

    def request(
        self, method: str, path: str, body: JSON | None, *, session: Session, timeouts: Timeouts
    ) -> Reply:
        """One answer. Raises `LibertaiError`."""
        deadlines = Deadlines(timeouts)
        request = self.endpoint.request(method, path, body)
        with self._open(request, path, session, deadlines) as response:
            return read_reply(_read_all(response, deadlines, MAX_REPLY_BYTES))

    def stream(
        self, path: str, body: JSON, *, session: Session, timeouts: Timeouts
    ) -> Generator[JSON, None, None]:
        """The JSON objects of a stream. Raises `LibertaiError`; closing it closes the socket."""
        deadlines = Deadlines(timeouts)
        request = self.endpoint.request("POST", path, body, is_stream=True)
        with self._open(request, path, session, deadlines) as response:
            if not is_events(response.headers.get("Content-Type")):
                yield read_object(_read_all(response, deadlines, MAX_REPLY_BYTES))
                return
            yield from _read_events(response, deadlines)

    def close(self) -> None:
        """Close idle connections; a session of the caller's is left alone."""
        if self._is_ours:
            self._base.close()

    @contextmanager
    def _open(
        self, request: HTTPRequest, path: str, session: Session, deadlines: Deadlines
    ) -> Iterator[requests.Response]:
        """A good answer whose body has not been read yet; closed in the end."""
        response = self._follow(request, session, deadlines)
        try:
            check_coding(response.headers.get("Content-Encoding"))
            if response.status_code >= 300:
                page = _read_page(response, deadlines)
                raise http_error(response.status_code, response.headers, page, path)
            yield response
        finally:
            response.close()

    def _follow(
        self, request: HTTPRequest, session: Session, deadlines: Deadlines
    ) -> requests.Response:
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send(request, session, deadlines)
            if response.status_code not in REDIRECTS:
                session.on_answer_from(origin_of(request.url))
                return response
            response.close()
            request = request.redirected(response.headers.get("Location"))
        raise InvalidReply(f"more than {MAX_REDIRECTS} redirects")

    def _send(
        self, request: HTTPRequest, session: Session, deadlines: Deadlines
    ) -> requests.Response:
        """The head of an answer.

        NOTE: over a session of the caller's, `requests` waits anew for every piece of the head, so
        a server that drips it can outlast the limit; from the head on each read is cut off in time.
        """
        deadlines.check()
        self._leave_the_parents_connections()
        left = deadlines.remaining
        limit = urllib3.Timeout(connect=ConnectLimit.of(deadlines), total=left)
        http = self._at_home(session) if request.is_home else self._abroad()
        try:
            response = http.request(
                request.method,
                request.url,
                data=request.body,
                headers=request.all_headers,
                auth=_keep_headers if self._keeps_authorization(request) else None,
                timeout=cast(Any, limit),
                stream=True,
                allow_redirects=False,
            )
            # Said here and not at each read: recorders such as vcrpy take no options there.
            response.raw.decode_content = True
            return response
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _failure(error, deadlines) from error

    def _leave_the_parents_connections(self) -> None:
        """In a forked process, begin without connections; the parent's stay open over there.

        NOTE: the caller's adapters may hold what a new one would lack, so they are only emptied.
        """
        if self._process == os.getpid():
            return
        with self._fork_lock:
            if self._process != os.getpid():
                if self._is_ours:
                    _mount_adapters(self._base)
                for adapter in self._base.adapters.values():
                    adapter.close()
                self._process = os.getpid()

    def _keeps_authorization(self, request: HTTPRequest) -> bool:
        return self.endpoint.has_authorization or not request.is_home

    def _at_home(self, session: Session) -> requests.Session:
        """The base session with the conversation's cookies instead of its own."""
        if session is not self.default and not session.has_answered:
            copy_cookies(self._given_cookies, session.cookies)
        return _twin(self._base, cookies=session.cookies)

    def _abroad(self) -> requests.Session:
        """For a server that we were sent to: the same connections, none of the secrets."""
        plain = requests.structures.CaseInsensitiveDict[str | bytes]()
        return _twin(self._base, cookies=new_jar(), headers=plain, auth=None, cert=None, params={})


def _new_session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.cookies = new_jar()
    _mount_adapters(session)
    return session


def _mount_adapters(session: requests.Session) -> None:
    """Give a session connections of its own, none of them open yet."""
    for scheme in ("http://", "https://"):
        session.mount(scheme, TimedAdapter(pool_maxsize=POOL_SIZE))


def _twin(base: requests.Session, **changes: Any) -> requests.Session:
    """A session that shares everything with another one, except for the changes.

    NOTE: made without `__init__`, so that a subclass of the caller's keeps what it was given.
    `requests` would read the whole body of a redirect, without a limit, even if it is not to
    follow it: it is told that there is nowhere to go.
    """
    twin = object.__new__(type(base))
    nowhere = {"get_redirect_target": lambda response: None}
    twin.__dict__.update({**base.__dict__, **nowhere, **changes})
    return twin


def _keep_headers(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An `auth` that adds nothing, and keeps `requests` from adding what .netrc says."""
    return request


def _failure(error: Exception, deadlines: Deadlines) -> TransportError:
    """Our error for what went wrong before the answer began."""
    if isinstance(error, requests.ConnectTimeout):
        return deadlines.error(is_connecting=True)
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)):
        return deadlines.error()
    cause = _innermost(error)
    reason = _reason(cause)
    if isinstance(cause, TimeoutError):
        return deadlines.error(is_connecting=True)  # while sending; `requests` has no word for it
    if isinstance(error, requests.exceptions.SSLError):
        return ConnectError(f"no secure connection: {reason}", is_retryable=False)
    if isinstance(error, requests.ConnectionError):
        return ConnectError(f"no answer: {reason}")
    return ConnectError(f"the request could not be sent: {reason}", is_retryable=False)


def _innermost(error: BaseException) -> BaseException:
    """The failure under the failures."""
    for _ in range(8):
        inner = getattr(error, "reason", None) or next(
            (each for each in reversed(error.args) if isinstance(each, BaseException)), None
        )
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error


def _reason(error: BaseException) -> str:
    """The kind of a failure and its words, without objects' addresses."""
    text = str(error).rpartition("object at 0x")[2].partition(": ")[2] or str(error)
    return f"{type(error).__name__}: {text}"


def _read_events(response: requests.Response, deadlines: Deadlines) -> Generator[JSON, None, None]:
    reader = EventReader()
    try:
        while not reader.is_done and (piece := _read(response, deadlines, reader.has_begun)):
            for item in reader.push(piece):
                yield item
                # The clock starts when the caller comes back: its own time is not the server's.
                deadlines.on_event()
        yield from reader.close()
    finally:
        if reader.is_done:
            _drain(response)


def _read_all(response: requests.Response, deadlines: Deadlines, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := _read(response, deadlines, bool(pieces)):
        deadlines.on_event()
        pieces.append(piece)
        size += len(piece)
        if size > max_bytes:
            raise InvalidReply(f"the answer is larger than {max_bytes} bytes")
    return b"".join(pieces)


def _read_page(response: requests.Response, deadlines: Deadlines) -> bytes:
    """The body of a refusal, as far as it comes soon: it only explains."""
    pieces: list[bytes] = []
    limits = Deadlines(page_timeouts(deadlines.remaining))
    with suppress(LibertaiError):
        while sum(map(len, pieces)) < MAX_ERROR_BYTES:
            piece = _read(response, limits, False)
            if not piece:
                break
            pieces.append(piece)
    return b"".join(pieces)


def _read(response: requests.Response, deadlines: Deadlines, has_begun: bool) -> bytes:
    """What has arrived, waiting for at least a byte until the next limit; b"" at the end."""
    deadlines.check()
    keep_time(_reader(response), deadlines)
    try:
        piece: bytes = response.raw.read1(READ_BYTES)
        return piece
    except urllib3.exceptions.ReadTimeoutError as error:
        raise deadlines.error() from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        message = f"the answer was cut: {_reason(_innermost(error))}"
        raise IncompleteStream(message, has_begun=has_begun) from error


def _drain(response: requests.Response) -> None:
    """After the last event: take the end of the body, so that the connection can be used again."""
    limits = Timeouts.of(DRAIN_SECONDS, Timeouts.unlimited())
    keep_time(_reader(response), Deadlines(limits))
    with suppress(urllib3.exceptions.HTTPError, OSError):
        for _ in range(MAX_DRAIN_READS):
            if not response.raw.read1(READ_BYTES):
                break


def _reader(response: requests.Response) -> Any:
    """What the body is read from: http.client's buffer, as long as there is more to come."""
    return getattr(getattr(response.raw, "_fp", None), "fp", None)
