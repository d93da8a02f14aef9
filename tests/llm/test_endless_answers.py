"""Servers that never come to an end, at the places where nobody expects them to: limits hold."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator

import pytest

from libertai_llm import Client, Timeouts, errors
from tests.llm.conftest import MakeClient, Serve
from tests.llm.scripted_server import (
    Asked,
    Step,
    event,
    final,
    head,
    piece,
    said,
    stream_head,
    whole,
)

DRIP: list[Step] = [step for _ in range(60) for step in (b"a", 0.1)]


def test_the_page_of_a_redirect(any_client: MakeClient, serve: Serve) -> None:
    """Nobody reads it: where it leads to is asked at once."""
    moved = head(307, [("Location", "/there"), ("Transfer-Encoding", "chunked")])
    pieces = [step for _ in range(60) for step in (piece(b"moved"), 0.1)]
    server = serve(lambda asked: [whole(final("here"))] if asked.number else [moved, *pieces])
    begun = time.monotonic()
    assert any_client(server.url).complete("x").content == "here"
    assert time.monotonic() - begun < 3 and server.asked[1].path == "/there"


def test_a_redirect_in_no_alphabet(any_client: MakeClient, serve: Serve) -> None:
    """Bytes that are no UTF-8 are followed or refused like others."""
    moved = whole(b"", 308, [("Location", "/\xff")])
    server = serve(lambda asked: [whole(final("here"))] if asked.number else [moved])
    assert any_client(server.url).complete("x").content == "here"


def test_the_page_of_a_refusal(any_client: MakeClient, serve: Serve) -> None:
    """It explains as much as comes within the call's own limit, and is never waited for longer."""
    server = serve(lambda asked: [head(400, [("Content-Length", "100")]), *DRIP])
    begun = time.monotonic()
    with pytest.raises(errors.BadRequest, match="aa"):
        any_client(server.url, timeouts=1.0).complete("x")
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nX-Long: "])
def test_the_head(any_client: MakeClient, serve: Serve, begin: bytes) -> None:
    """It may come byte by byte, but not for longer than the limit."""
    server = serve(lambda asked: [begin, *DRIP])
    begun = time.monotonic()
    with pytest.raises(errors.TimedOut) as caught:
        any_client(server.url, timeouts=Timeouts(first_token=0.5)).complete("x")
    assert caught.value.phase == "first_token" and time.monotonic() - begun < 3


def test_the_limits_of_a_call_end_with_it(serve: Serve) -> None:
    """A connection that is used again has those of the next call, also if it has none."""
    server = serve(lambda asked: [0.6 if asked.number else 0.0, whole(final("ok"))])
    with Client(server.url, timeouts=Timeouts.unlimited()) as client:
        assert client.complete("x", timeouts=0.5).content == "ok"
        assert client.complete("x").content == "ok"
    assert server.num_connections == 1


def test_the_size_of_a_piece(any_client: MakeClient, serve: Serve) -> None:
    """Bytes between two pieces of a body keep a socket awake, but not a call."""
    server = serve(lambda asked: [stream_head(), event(said("a")), b"1;", *DRIP])
    begun = time.monotonic()
    with pytest.raises(errors.TimedOut) as caught:
        list(any_client(server.url, timeouts=Timeouts(between_tokens=0.5)).stream("x"))
    assert caught.value.phase == "between_tokens" and caught.value.partial_text == "a"
    assert time.monotonic() - begun < 3


def test_what_follows_the_body(any_client: MakeClient, serve: Serve) -> None:
    """An answer that is whole is handed on, whatever comes after its end."""

    def script(asked: Asked) -> Iterator[Step]:
        yield from (stream_head(), event(said("a")), event(final("b")), b"0\r\n")
        end = time.monotonic() + 6
        while time.monotonic() < end:
            yield b"more: and more\r\n" * 100

    server = serve(script)
    begun = time.monotonic()
    assert [chunk.content for chunk in any_client(server.url).stream("x")] == ["a", "b"]
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize("is_stream", [False, True])
def test_what_unpacks_without_end(any_client: MakeClient, serve: Serve, is_stream: bool) -> None:
    """Packed once, as gateways do, is read; a few bytes that may become gigabytes are not."""
    plain = b'data: {"content": "hi", "stop": true}\n\n' if is_stream else b'{"content": "hi"}'
    kind = "text/event-stream" if is_stream else "application/json"
    once = whole(gzip.compress(plain), 200, [("Content-Encoding", "gzip")], kind)
    packed = gzip.compress(gzip.compress(plain))
    twice = whole(packed, 200, [("Content-Encoding", "gzip, gzip")], kind)
    server = serve(lambda asked: [twice if asked.number else once])
    client = any_client(server.url)

    def content() -> str:
        if is_stream:
            return "".join(chunk.content for chunk in client.stream("x"))
        text: str = client.complete("x").content
        return text

    assert content() == "hi"
    with pytest.raises(errors.InvalidReply, match="compressed"):
        content()
