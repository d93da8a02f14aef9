"""Bytes that are hardly HTTP: every connection gets a clear answer or is closed in time."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.engine.http.test_exchange import FakeAPI
from tests.engine.serving import Running, parse_reply, read_all, request_bytes, running


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(FakeAPI(), receive_timeout=0.7, max_body_bytes=100_000) as running_server:
        yield running_server


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /health\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nA: b\x00c\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n", 400),
        (
            b"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n"
            b"Content-Length: 4\r\n\r\nabc",
            400,
        ),
        (
            b"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            b"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
        ),
        (request_bytes("GET", "/health", A="b" * 20_000), 431),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nA: " + b"b" * 40_000, 431),
        (request_bytes("GET", "/" + "x" * 9_000), 414),
        (b"GET /" + b"x" * 40_000, 414),
        (request_bytes("GET", "http://127.0.0.1/health"), 404),
        (request_bytes("TRACE", "/completion"), 405),
        (request_bytes("BREW", "/health"), 405),
        (request_bytes("GET", "/completion"), 405),
        (request_bytes("POST", "/health", b"{}"), 405),
        (request_bytes("GET", "/nothing"), 404),
        (request_bytes("POST", "/completion/", b"{}"), 404),
        (request_bytes("GET", "/../etc/passwd"), 404),
    ],
)
def test_refused_in_one_shape(server: Running, request_text: bytes, status: int) -> None:
    """A JSON error with the right status, nothing echoed, and the server stays well."""
    reply = server.raw(request_text)
    assert reply.status == status
    assert reply.error["type"] in {"invalid_request_error", "not_found_error"}
    assert b"passwd" not in reply.body
    assert server.get("/health").json == {"status": "ok"}


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET /hea",
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        b"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n{",
        b"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
)
def test_what_never_arrives_is_not_waited_for(server: Running, beginning: bytes) -> None:
    """408 for a head or a body that stays incomplete, then the connection is closed."""
    start = time.monotonic()
    reply = server.raw(beginning)
    assert (reply.status, reply.error["type"]) == (408, "timeout_error")
    assert time.monotonic() - start < 4


def test_a_dripping_head_is_cut_off(server: Running) -> None:
    """One byte now and then does not restart the clock."""
    start = time.monotonic()
    with server.connect() as client, pytest.raises(ConnectionError):
        for byte in request_bytes("GET", "/health", X_Slow="y" * 10_000):
            client.sendall(bytes([byte]))
            time.sleep(0.05)
    assert time.monotonic() - start < 4


def test_a_dripping_second_head_is_cut_off(server: Running) -> None:
    """The clock runs for every request of a connection."""
    with server.connect() as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert parse_reply(client.recv(65536)).status == 200
        client.sendall(b"GET /hea")
        assert parse_reply(read_all(client)).status == 408


@pytest.mark.parametrize("is_chunked", [False, True])
def test_too_large_a_body(server: Running, is_chunked: bool) -> None:
    """413, readable by a client that sends everything before it reads anything."""
    body = b"x" * 3_000_000
    head = b"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if is_chunked:
        sent = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    else:
        sent = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    reply = server.raw(sent)
    assert (reply.status, reply.error["type"]) == (413, "request_too_large")
    assert reply.headers["connection"] == "close"


def test_an_endless_body_is_not_read_for_ever(server: Running) -> None:
    """The refused client may finish its sentence, not talk on."""
    start = time.monotonic()
    with server.connect() as client, pytest.raises(ConnectionError):
        client.sendall(request_bytes("POST", "/completion", Transfer_Encoding="chunked"))
        while True:
            client.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
            assert time.monotonic() - start < 10


def test_two_requests_at_once_on_one_connection(server: Running) -> None:
    """Pipelined requests are answered in order."""
    with server.connect() as client:
        first = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        client.sendall(first + request_bytes("GET", "/nothing"))
        replies = read_all(client)
    assert replies.startswith(b"HTTP/1.1 200 ") and b"HTTP/1.1 404 " in replies


def test_http_1_0_without_host(server: Running) -> None:
    """What `ab` and old health checks send."""
    assert server.raw(b"GET /health HTTP/1.0\r\n\r\n").status == 200


def test_a_client_that_waits_for_permission_gets_its_refusal(server: Running) -> None:
    """`Expect: 100-continue` with too large a body: refused before it is sent."""
    request = b"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\n"
    with server.connect() as client:
        client.sendall(request + b"Content-Length: 3000000\r\n\r\n")
        reply = parse_reply(client.recv(65536))
    assert reply.status == 413
