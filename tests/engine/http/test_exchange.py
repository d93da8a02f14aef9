"""Streams and answers that go wrong halfway, with an API that fails on request.

A real engine cannot be made to stall, to break at a chosen token or to say chosen text, hence the
`FakeAPI`; everything around it is real: server, sockets, framing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from libertai_engine.errors import EngineUnavailable
from tests.engine.serving import Running, parse_reply, read_all, request_bytes, running, wait_until

Script = list[str | float]
END = {"content": "", "stop": True}


class FakeAPI:
    """Does what the body's `script` says: text to send, seconds to wait, or a way to fail.

    `num_running` counts the calls that hold a slot at the moment.
    """

    sees_images = False

    def __init__(self) -> None:
        self.num_running = 0

    def wants_stream(self, body: dict[str, Any]) -> bool:
        return bool(body.get("stream"))

    async def acomplete(self, body: dict[str, Any]) -> dict[str, Any]:
        with self._slot():
            for step in body["script"]:
                await self._do(step)
        return END

    async def astream(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        with self._slot():
            for step in body["script"]:
                await self._do(step)
                if isinstance(step, str):
                    yield {"content": step, "stop": False}
            yield END

    def health(self) -> dict[str, Any]:
        return {"status": "ok"}

    @contextmanager
    def _slot(self) -> Iterator[None]:
        self.num_running += 1
        try:
            yield
        finally:
            self.num_running -= 1

    async def _do(self, step: str | float) -> None:
        if not isinstance(step, str):
            await asyncio.sleep(step)
        elif step == "FULL":
            raise EngineUnavailable("the queue is full", retry_after=3)
        elif step == "BUG":
            raise RuntimeError("password=hunter2")


def ask(server: Running, script: Script, *, stream: bool = True) -> Any:
    return server.post("/completion", {"script": script, "stream": stream})


def contents(events: list[Any]) -> str:
    return "".join(event["content"] for event in events)


def test_silence_is_filled_with_comments() -> None:
    """A stream that has nothing to send pings, before its first item too; items are unharmed."""
    with running(FakeAPI(), ping_interval=0.2) as server:
        reply = ask(server, [0.5, "a", 0.5, "b", "c"])
    assert (reply.status, contents(reply.events)) == (200, "abc")
    before, _, after = reply.body.partition(b'"a"')
    assert before.count(b": ping\n\n") >= 2 and after.count(b": ping\n\n") >= 2
    assert reply.headers["cache-control"] == "no-cache"
    assert "content-length" not in reply.headers


def test_no_comment_in_a_lively_stream() -> None:
    """Steady text needs no pings."""
    with running(FakeAPI(), ping_interval=1.0) as server:
        assert b"ping" not in ask(server, ["x", 0.05] * 30).body


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_first_byte_is_an_http_error(stream: bool) -> None:
    """With its status and Retry-After, streaming or not."""
    with running(FakeAPI()) as server:
        reply = ask(server, [0.05, "FULL"], stream=stream)
    assert (reply.status, reply.error["type"]) == (503, "unavailable_error")
    assert reply.headers["retry-after"] == "3"


@pytest.mark.parametrize("script", [["a", "FULL"], [0.4, "FULL"]])
def test_a_later_error_is_the_last_event(script: Script) -> None:
    """Once bytes are out, text or ping, the error is an event and the stream ends properly."""
    with running(FakeAPI(), ping_interval=0.2) as server:
        reply = ask(server, script)
    assert reply.status == 200
    assert reply.events[-1] == {
        "error": {"code": 503, "message": "the queue is full", "type": "unavailable_error"}
    }


@pytest.mark.parametrize(
    ("script", "stream"), [(["BUG"], False), (["BUG"], True), (["a", "BUG"], True)]
)
def test_a_bug_is_logged_and_not_told(
    script: Script, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """500 without details for the client, the traceback for the log, and the server lives."""
    with caplog.at_level(logging.ERROR), running(FakeAPI()) as server:
        reply = ask(server, script, stream=stream)
        assert server.get("/health").status == 200
    error = reply.events[-1]["error"] if reply.status == 200 else reply.error
    assert error == {"code": 500, "message": "internal server error", "type": "server_error"}
    assert b"hunter2" not in reply.body
    assert "RuntimeError: password=hunter2" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
def test_the_deadline_ends_a_request(stream: bool) -> None:
    """504 if nothing has been sent; the slot is free afterwards."""
    api = FakeAPI()
    with running(api, request_timeout=0.3) as server:
        reply = ask(server, [60], stream=stream)
        assert (reply.status, reply.error["type"]) == (504, "timeout_error")
        assert api.num_running == 0


def test_the_deadline_ends_a_running_stream() -> None:
    """What was said stays, then comes the error event."""
    with running(FakeAPI(), request_timeout=0.4) as server:
        events = ask(server, ["a", 60]).events
    assert events[0]["content"] == "a"
    assert events[-1]["error"]["code"] == 504


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot(stream: bool) -> None:
    """Noticed at once, though nothing is being written."""
    api = FakeAPI()
    with running(api) as server:
        body = b'{"script":[60],"stream":%s}' % (b"true" if stream else b"false")
        client = server.connect()
        client.sendall(request_bytes("POST", "/completion", body))
        wait_until(lambda: api.num_running == 1)
        client.close()
        wait_until(lambda: api.num_running == 0, timeout=3)


def test_a_client_that_asks_ahead_and_leaves_frees_its_slot() -> None:
    """Noticed as well while a further request waits behind the one that runs."""
    api = FakeAPI()
    with running(api) as server, server.connect() as client:
        first = request_bytes("POST", "/completion", b'{"script":[60]}', Connection="keep-alive")
        client.sendall(first)
        wait_until(lambda: api.num_running == 1)
        for part in (b"GET /health HTTP/1.1\r\n", b"Host: 127.0.0.1\r\n\r\n"):
            client.sendall(part)
            time.sleep(0.1)  # so that the server sees it apart from what follows
        client.close()
        wait_until(lambda: api.num_running == 0, timeout=3)


@contextmanager
def slow_client(server: Running) -> Iterator[socket.socket]:
    """A connection with little room for what is not read yet."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(20)
        client.connect(("127.0.0.1", server.port))
        yield client


class Witness(dict[str, Any]):
    """Remembers in which threads it was written."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        self.threads: set[int] = set()

    def items(self) -> Any:
        self.threads.add(threading.get_ident())
        return super().items()


class ProbableAPI(FakeAPI):
    """Answers with probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.witness = Witness(prob=0.5)
        self.loop_thread = 0

    async def acomplete(self, body: dict[str, Any]) -> dict[str, Any]:
        self.loop_thread = threading.get_ident()
        probabilities = [{"content": "a", "probs": [self.witness]}]
        return {**END, "completion_probabilities": probabilities}


def test_probabilities_are_written_aside() -> None:
    """There may be a million of them; nobody else waits for that."""
    api = ProbableAPI()
    with running(api) as server:
        told = server.post("/completion", {}).json
    assert told["completion_probabilities"] == [{"content": "a", "probs": [{"prob": 0.5}]}]
    assert api.witness.threads and api.loop_thread not in api.witness.threads


class LargeEndAPI(FakeAPI):
    """Streams end with an object that fills every buffer on its way."""

    async def astream(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        yield {**END, "prompt": "x" * 20_000_000}


def test_the_end_of_a_stream_waits_for_no_reader_beyond_the_deadline() -> None:
    """Nor does it look whole to whoever reads it then."""
    with running(LargeEndAPI(), request_timeout=0.5) as server, slow_client(server) as client:
        client.sendall(request_bytes("POST", "/completion", b'{"stream":true}'))
        wait_until(lambda: server.lifecycle.num_requests == 1)
        wait_until(lambda: server.lifecycle.num_requests == 0, timeout=5)
        assert not read_all(client).endswith(b"0\r\n\r\n")


def test_a_client_that_does_not_read_is_cut_off() -> None:
    """It blocks neither others nor its slot for longer than the deadline."""
    api = FakeAPI()
    with running(api, request_timeout=0.5) as server, server.connect() as client:
        body = b'{"script":["%s"],"stream":true}' % b'","'.join([b"x" * 100_000] * 80)
        client.sendall(request_bytes("POST", "/completion", body))
        wait_until(lambda: api.num_running == 1)
        assert server.get("/health").status == 200
        wait_until(lambda: api.num_running == 0 and server.lifecycle.num_requests == 0, timeout=5)
        assert not read_all(client).endswith(b"0\r\n\r\n"), "a cut answer must not look whole"


def test_text_cannot_forge_events() -> None:
    """Line ends in the text stay inside the JSON string."""
    forged = 'x\n\ndata: {"content":"forged","stop":true}\r\n\r\n\u2028: ping\n\n'
    with running(FakeAPI()) as server:
        assert [event["content"] for event in ask(server, [forged]).events] == [forged, ""]


def test_the_last_requests_are_told_that_the_server_stops() -> None:
    """After the drain time a stream ends with an error event, a whole answer is a 503."""
    api = FakeAPI()
    with running(api, drain_timeout=0.3) as server:
        streaming, waiting = server.connect(), server.connect()
        streaming.sendall(request_bytes("POST", "/completion", b'{"script":["a",60],"stream":1}'))
        waiting.sendall(request_bytes("POST", "/completion", b'{"script":[60]}'))
        wait_until(lambda: api.num_running == 2)
        start = time.monotonic()
        server.lifecycle.drain()
        with streaming, waiting:
            events = parse_reply(read_all(streaming)).events
            reply = parse_reply(read_all(waiting))
        assert time.monotonic() - start < 3
    assert [events[0]["content"], events[-1]["error"]["code"]] == ["a", 503]
    assert (reply.status, reply.error["type"]) == (503, "unavailable_error")


def test_while_draining_running_requests_finish_and_new_ones_are_sent_away() -> None:
    """503 with Retry-After for new requests, health included; what runs ends whole."""
    api = FakeAPI()
    with running(api, drain_timeout=10) as server, server.connect() as client:
        body = b'{"script":["a",0.5,"b"],"stream":true}'
        client.sendall(request_bytes("POST", "/completion", body))
        wait_until(lambda: api.num_running == 1)
        server.lifecycle.drain()
        for reply in (server.get("/health"), ask(server, ["x"])):
            assert (reply.status, reply.error["type"]) == (503, "unavailable_error")
            assert int(reply.headers["retry-after"]) >= 1
        assert contents(parse_reply(read_all(client)).events) == "ab"
