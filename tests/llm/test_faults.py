"""The client against a server that misbehaves, byte for byte, blocking and asynchronous alike."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from libertai_llm import Session, Timeouts, errors
from libertai_llm.call import Call
from libertai_llm.retry import RetryPolicy
from libertai_llm.timeouts import Deadlines
from tests.llm.conftest import MakeClient, Serve
from tests.llm.scripted_server import (
    STREAM_END,
    Asked,
    ScriptedServer,
    Step,
    Verb,
    event,
    final,
    head,
    piece,
    said,
    stream,
    stream_head,
    wait_until,
    whole,
)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def texts(chunks: Iterator[Any]) -> list[str]:
    return [chunk.content for chunk in chunks]


def test_refused_connection(any_client: MakeClient) -> None:
    """Nobody listens: a typed error that says so, within the retries' pauses."""
    client = any_client(f"http://127.0.0.1:{free_port()}", max_retries=1)
    with pytest.raises(errors.ConnectError, match="[Rr]efused") as caught:
        client.complete("x")
    assert caught.value.is_retryable and isinstance(caught.value, ConnectionError)


def test_unknown_host(any_client: MakeClient) -> None:
    """A name that no DNS knows."""
    with pytest.raises(errors.ConnectError):
        any_client("http://nobody.invalid", max_retries=0).complete("x")


def test_tls_failure_is_not_retried(any_client: MakeClient, serve: Serve) -> None:
    """A server that speaks no TLS will not learn it by the second attempt."""
    server = serve(lambda asked: [])
    with pytest.raises(errors.ConnectError) as caught:
        any_client(f"https://127.0.0.1:{server.port}", max_retries=2).complete("x")
    assert not caught.value.is_retryable


@pytest.mark.parametrize(("status", "num_attempts"), [(502, 3), (503, 3), (504, 1)])
def test_gateway_page(any_client: MakeClient, serve: Serve, status: int, num_attempts: int) -> None:
    """An HTML page of a gateway becomes a short readable error, after the retries if there are any.

    A 504 has none: whoever waited said that the time is up.
    """
    page = b"<html><style>x{}</style><h1>Bad &amp; broken</h1>" + b"<p>no</p>" * 10_000
    server = serve(lambda asked: [whole(page, status, content_type="text/html")])
    client = any_client(server.url, max_retries=2)
    with pytest.raises(errors.ServerError) as caught:
        client.complete("x")
    assert caught.value.status == status and len(server.asked) == num_attempts
    assert "broken" in caught.value.message and "<" not in caught.value.message
    assert len(str(caught.value)) < 600 and len(caught.value.body) < 600
    assert isinstance(caught.value, errors.Unavailable) == (status == 503)


def test_html_with_status_200(any_client: MakeClient, serve: Serve) -> None:
    """A portal's page is no answer, streamed or not, and is not asked for twice."""
    server = serve(lambda asked: [whole(b"<h1>Please log in</h1>", content_type="text/html")])
    client = any_client(server.url)
    with pytest.raises(errors.InvalidReply, match="Please log in"):
        client.complete("x")
    with pytest.raises(errors.InvalidReply, match="Please log in"):
        list(client.stream("x"))
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_kept(any_client: MakeClient, serve: Serve, status: int) -> None:
    """The pause is the one the server asked for."""

    def script(asked: Asked) -> Iterator[Step]:
        refused = whole({"error": {"message": "wait"}}, status, [("Retry-After", "0.7")])
        yield refused if asked.number == 0 else whole(final("ok"))

    server = serve(script)
    begun = time.monotonic()
    assert any_client(server.url).complete("x").content == "ok"
    assert time.monotonic() - begun >= 0.7 and len(server.asked) == 2


def test_retry_after_is_capped(any_client: MakeClient, serve: Serve) -> None:
    """Nobody sleeps for an hour: the error is raised at once and tells how long."""
    server = serve(lambda asked: [whole({}, 503, [("Retry-After", "3600")])])
    begun = time.monotonic()
    with pytest.raises(errors.Unavailable) as caught:
        any_client(server.url).complete("x")
    assert time.monotonic() - begun < 5 and caught.value.retry_after == 3600
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 409, 422, 429])
def test_4xx_is_asked_once(any_client: MakeClient, serve: Serve, status: int) -> None:
    """A refusal is not repeated (429 neither, unless it says when)."""
    server = serve(lambda asked: [whole({"error": {"message": "no"}}, status)])
    for call in (lambda c: c.complete("x"), lambda c: list(c.stream("x"))):
        server.asked.clear()
        with pytest.raises(errors.APIError) as caught:
            call(any_client(server.url))
        assert caught.value.status == status and len(server.asked) == 1


def test_cut_before_the_first_byte_is_retried(any_client: MakeClient, serve: Serve) -> None:
    """A connection that is cut without a word: the call is made again, streamed or not."""
    answers = {False: whole(final("ok")), True: stream(said("o"), final("k"))}

    def script(asked: Asked) -> Iterator[Step]:
        yield Verb.RESET if asked.number % 2 == 0 else answers[asked.json["stream"]]

    server = serve(script)
    client = any_client(server.url, max_retries=1)
    assert client.complete("x").content == "ok"
    assert texts(client.stream("x")) == ["o", "k"]
    assert len(server.asked) == 4


def test_retries_are_bounded(any_client: MakeClient, serve: Serve) -> None:
    """`max_retries` attempts after the first, and no more."""
    server = serve(lambda asked: [Verb.RESET])
    with pytest.raises(errors.ConnectError):
        any_client(server.url, max_retries=2).complete("x")
    assert len(server.asked) == 3


@pytest.mark.parametrize("ending", [[], [Verb.RESET], [STREAM_END]], ids=["eof", "reset", "end"])
def test_cut_stream(any_client: MakeClient, serve: Serve, ending: list[Step]) -> None:
    """However a stream is cut, what came is handed on, then an error carries it; no retry."""
    begin = [stream_head(), event(said("Hel")), event(said("lo"))]
    server = serve(lambda asked: [*begin, 0.05, *(ending or [Verb.CLOSE])])
    seen = []
    with pytest.raises(errors.IncompleteStream) as caught:
        for chunk in any_client(server.url).stream("x"):
            seen.append(chunk.content)
    assert seen == ["Hel", "lo"] and caught.value.partial_text == "Hello"
    assert len(server.asked) == 1


def test_cut_inside_an_event(any_client: MakeClient, serve: Serve) -> None:
    """Half of a JSON object at the end is a cut, not a garbled answer."""
    half = piece(b'data: {"content": "wor')
    server = serve(lambda asked: [stream_head(), event(said("a")), half, STREAM_END])
    with pytest.raises(errors.IncompleteStream) as caught:
        list(any_client(server.url).stream("x"))
    assert caught.value.partial_text == "a"


def test_stream_without_a_byte_is_retried(any_client: MakeClient, serve: Serve) -> None:
    """A stream that was opened and cut before any byte of it: nothing has begun."""

    def script(asked: Asked) -> Iterator[Step]:
        if asked.number == 0:
            yield stream_head()
            yield Verb.CLOSE
        yield stream(final("ok"))

    assert texts(any_client(serve(script).url).stream("x")) == ["ok"]


def test_cut_whole_answer(any_client: MakeClient, serve: Serve) -> None:
    """A whole answer that is shorter than promised is an error, and not asked for again."""
    short = whole(final("a long text"))[:-5]
    server = serve(lambda asked: [short, 0.05, Verb.CLOSE])
    with pytest.raises(errors.IncompleteStream):
        any_client(server.url).complete("x")
    assert len(server.asked) == 1


def test_stream_until_the_connection_ends(any_client: MakeClient, serve: Serve) -> None:
    """HTTP/1.0 manners: no length, no chunks, the body ends with the connection."""
    body = b"".join(b"data: " + json.dumps(i).encode() + b"\n\n" for i in (said("a"), final("b")))
    top = head(200, [("Connection", "close")], "text/event-stream")
    server = serve(lambda asked: [top, body, Verb.CLOSE])
    assert texts(any_client(server.url).stream("x")) == ["a", "b"]


@pytest.mark.parametrize(
    "item",
    [
        {"error": {"code": 500, "message": "boom", "type": "server_error"}},
        {"error": "boom"},
        {"error": {"content": "boom"}},
    ],
)
@pytest.mark.parametrize("prefix", [b"data: ", b"data:", b"event: error\ndata: "])
def test_error_in_a_stream(
    any_client: MakeClient, serve: Serve, item: dict[str, Any], prefix: bytes
) -> None:
    """An error inside a stream is raised, knows the text so far, and is not retried."""
    server = serve(lambda asked: [stream_head(), event(said("par")), event(item, prefix)])
    with pytest.raises(errors.ServerError, match="boom") as caught:
        list(any_client(server.url).stream("x"))
    assert caught.value.partial_text == "par" and len(server.asked) == 1


def test_error_line_of_2023(any_client: MakeClient, serve: Serve) -> None:
    """`error: {…}` is no field of the standard, but what the server of 2023 sends."""
    line = event({"content": "something broke"}, b"error: ")
    server = serve(lambda asked: [stream_head(), event(said("a")), line, STREAM_END])
    with pytest.raises(errors.ServerError, match="something broke"):
        list(any_client(server.url).stream("x"))


def test_an_error_as_first_event_is_not_retried(any_client: MakeClient, serve: Serve) -> None:
    """The answer has begun with that event."""
    server = serve(lambda asked: [stream({"error": {"code": 500, "message": "boom"}})])
    with pytest.raises(errors.ServerError):
        list(any_client(server.url).stream("x"))
    assert len(server.asked) == 1


def test_busy_slots_of_2023(any_client: MakeClient, serve: Serve) -> None:
    """That server refuses with 404 or an error line while its slots are busy: asked again."""

    def script(asked: Asked) -> Iterator[Step]:
        if asked.number % 2:
            yield stream(final("b")) if asked.json["stream"] else whole(final("a"))
        elif asked.json["stream"]:
            yield stream_head() + event({"content": "slot unavailable"}, b"error: ") + STREAM_END
        else:
            yield whole(b"File Not Found", 404, content_type="text/plain")

    server = serve(script)
    client = any_client(server.url, max_retries=2)
    assert client.complete("x").content == "a"
    assert texts(client.stream("x")) == ["b"]
    assert len(server.asked) == 4


def test_busy_slots_are_asked_for_again_then_any(any_client: MakeClient, serve: Serve) -> None:
    """Busy: the conversation's own slot is asked for until the last attempt takes any."""
    server = serve(
        lambda asked: [
            whole(final("a", slot_id=0))
            if asked.number == 0
            else whole(b"File Not Found", 404, content_type="text/plain")
        ]
    )
    session = Session()
    client = any_client(server.url, max_retries=2)
    client.complete("x", session=session)
    with pytest.raises(errors.SlotUnavailable, match="wrong path") as caught:
        client.complete("y", session=session)
    assert caught.value.status == 404
    assert [body["slot_id"] for body in server.bodies] == [-1, 0, 0, -1]


def test_a_404_elsewhere_means_not_found(any_client: MakeClient, serve: Serve) -> None:
    """The same words for another route, or other words, are a plain 404, asked once."""
    server = serve(lambda asked: [whole(b"File Not Found", 404, content_type="text/plain")])
    with pytest.raises(errors.NotFound):
        any_client(server.url).tokenize("x")
    server.script = lambda asked: [whole({"detail": "Not Found"}, 404)]
    with pytest.raises(errors.NotFound):
        any_client(server.url).complete("x")
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "reply",
    [{}, {"stop": True}, {"content": None}, {"content": 5}, [1], "text", None, ["results", []]],
    ids=repr,
)
def test_reply_without_text(any_client: MakeClient, serve: Serve, reply: Any) -> None:
    """What has no text is refused by name, streamed or not; never an empty answer."""
    server = serve(lambda asked: [stream(reply) if asked.json["stream"] else whole(reply)])
    client = any_client(server.url)
    with pytest.raises(errors.InvalidReply):
        client.complete("x")
    with pytest.raises(errors.InvalidReply):
        list(client.stream("x"))
    assert len(server.asked) == 2


def test_no_token_in_time(any_client: MakeClient, serve: Serve) -> None:
    """The limit for the first token holds with and without headers, and against pings."""
    pings = [step for _ in range(100) for step in (piece(b": ping\n\n"), 0.05)]
    for begin in ([], [stream_head()], [stream_head(), *pings]):
        server = serve(lambda asked, begin=begin: [*begin, Verb.AWAIT_HANGUP])  # type: ignore[misc]
        client = any_client(server.url, timeouts=Timeouts(first_token=0.4))
        begun = time.monotonic()
        with pytest.raises(errors.TimedOut) as caught:
            list(client.stream("x"))
        assert caught.value.phase == "first_token" and isinstance(caught.value, TimeoutError)
        assert 0.35 < time.monotonic() - begun < 2
        assert server.hung_up.wait(5), "the server must see that nobody waits any more"
        assert len(server.asked) == 1


def test_no_further_token_in_time(any_client: MakeClient, serve: Serve) -> None:
    """The limit between tokens differs from the first one, and pings do not extend it."""
    pings = [step for _ in range(100) for step in (piece(b": ping\n\n"), 0.05)]
    begin = [stream_head(), 0.5, event(said("a")), 0.1, event(said("b"))]
    server = serve(lambda asked: [*begin, *pings, Verb.AWAIT_HANGUP])
    client = any_client(server.url, timeouts=Timeouts(first_token=5, between_tokens=0.3))
    begun = time.monotonic()
    with pytest.raises(errors.TimedOut) as caught:
        list(client.stream("x"))
    assert caught.value.phase == "between_tokens" and caught.value.partial_text == "ab"
    assert 0.8 < time.monotonic() - begun < 2.5
    assert server.hung_up.wait(5)


def test_limits_without_keep_alive(any_client: MakeClient, serve: Serve) -> None:
    """A stream that ends with its connection is timed like any other."""
    top = head(200, [("Connection", "close")], "text/event-stream")
    line = b"data: " + json.dumps(said("a")).encode() + b"\n\n"
    server = serve(lambda asked: [top, 0.5, line, Verb.AWAIT_HANGUP])
    client = any_client(server.url, timeouts=Timeouts(first_token=5, between_tokens=0.3))
    begun = time.monotonic()
    with pytest.raises(errors.TimedOut) as caught:
        list(client.stream("x"))
    assert caught.value.phase == "between_tokens" and 0.7 < time.monotonic() - begun < 3
    assert server.hung_up.wait(5)


def test_dripping_bytes_are_no_tokens(any_client: MakeClient, serve: Serve) -> None:
    """A byte now and then keeps a socket awake, but not a call."""
    drip = [step for _ in range(200) for step in (piece(b" "), 0.02)]
    server = serve(lambda asked: [stream_head(), event(said("a")), piece(b"data: {"), *drip])
    client = any_client(server.url, timeouts=Timeouts(between_tokens=0.4))
    begun = time.monotonic()
    with pytest.raises(errors.TimedOut) as caught:
        list(client.stream("x"))
    assert caught.value.phase == "between_tokens" and time.monotonic() - begun < 2


def test_total_time(any_client: MakeClient, serve: Serve) -> None:
    """A number is the whole call's limit: it ends a stream that is alive, and the retries."""
    tokens = [step for _ in range(200) for step in (event(said("a")), 0.05)]
    server = serve(lambda asked: [stream_head(), *tokens])
    begun = time.monotonic()
    with pytest.raises(errors.TimedOut, match=r"within 0\.5 s") as caught:
        list(any_client(server.url, timeouts=0.5).stream("x"))
    assert caught.value.phase == "total" and set(caught.value.partial_text) == {"a"}
    assert 0.45 < time.monotonic() - begun < 2


def test_total_time_of_all_attempts(any_client: MakeClient, serve: Serve) -> None:
    """Attempts and pauses together keep the limit, and the reason of the failures is told."""
    server = serve(lambda asked: [0.15, whole({"error": "warming up"}, 503)])
    begun = time.monotonic()
    with pytest.raises((errors.Unavailable, errors.TimedOut), match="warming up") as caught:
        any_client(server.url, timeouts=0.9, max_retries=50).complete("x")
    assert time.monotonic() - begun < 2 and len(server.asked) >= 2
    assert "within" not in str(caught.value) or "within 0.9 s" in str(caught.value)


def test_time_is_up_in_a_later_attempt(any_client: MakeClient, serve: Serve) -> None:
    """The limit is told as it was given, with what went wrong before."""
    hang = [Verb.AWAIT_HANGUP]
    refused = [whole({"error": "warming up"}, 503, [("Retry-After", "0")])]
    server = serve(lambda asked: hang if asked.number else refused)
    with pytest.raises(errors.TimedOut, match=r"within 0\.6 s; before that: warming up"):
        any_client(server.url, timeouts=0.6).complete("x")


def test_time_is_up_after_a_repair(any_client: MakeClient, serve: Serve) -> None:
    """An attempt that only leaves out what the server did not take has no time of its own."""
    hang: list[Step] = [Verb.AWAIT_HANGUP]
    refused: list[Step] = [0.7, whole({"error": "no such id_slot"}, 400)]
    server = serve(lambda asked: hang if asked.number else refused)
    begun = time.monotonic()
    with pytest.raises(errors.TimedOut, match=r"within 1\.2 s; before that: no such id_slot"):
        any_client(server.url, timeouts=1.2).complete("x", session=Session(slot_id=7))
    assert time.monotonic() - begun < 1.7 and len(server.asked) == 2


def test_the_systems_own_limit_in_a_later_attempt() -> None:
    """Without limits of ours a connection may time out all the same; that is told as it is."""
    call = Call(
        "/completion",
        {},
        session=Session(),
        target="x",
        keeps_slot=False,
        policy=RetryPolicy(),
        timeouts=Timeouts.unlimited(),
    )
    assert call.pause_after(errors.ConnectError("refused")) > 0
    with pytest.raises(errors.TimedOut, match="system"):
        call.pause_after(Deadlines(call.timeouts).error())


def test_whole_answer_in_time(any_client: MakeClient, serve: Serve) -> None:
    """A whole answer may be silent for as long as the first token may take."""
    server = serve(lambda asked: [Verb.AWAIT_HANGUP])
    client = any_client(server.url, timeouts=Timeouts(first_token=0.3))
    with pytest.raises(errors.TimedOut):
        client.complete("x")
    assert server.hung_up.wait(5) and len(server.asked) == 1


def test_a_slow_reader_is_not_a_slow_server(any_client: MakeClient, serve: Serve) -> None:
    """Time the caller spends on a chunk does not count as the server's silence."""
    server = serve(lambda asked: [stream_head(), event(said("a")), 0.2, event(final("b"))])
    chunks = any_client(server.url, timeouts=Timeouts(between_tokens=0.5)).stream("x")
    assert next(chunks).content == "a"
    time.sleep(0.8)
    assert next(chunks).content == "b"
    chunks.close()


def test_connecting_in_time(any_client: MakeClient) -> None:
    """A host that never answers the handshake: limited by `connect`, and retried."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        try:
            for each in waiting:  # fill the queue, so that the next one is left hanging
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            time.sleep(0.1)
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            client = any_client(url, timeouts=Timeouts(connect=0.3), max_retries=0)
            begun = time.monotonic()
            with pytest.raises(errors.TimedOut) as caught:
                client.complete("x")
            assert caught.value.phase == "connect" and time.monotonic() - begun < 2
        finally:
            for each in waiting:
                each.close()


class BusyServer(ScriptedServer):
    """Accepts at once, and reads a second later."""

    def _read(self, *args: Any) -> Asked | None:
        time.sleep(1.0)
        return super()._read(*args)


def test_sending_is_not_connecting(any_client: MakeClient) -> None:
    """A large prompt may be on its way for longer than connecting may take, also when reused."""
    large = "x" * (20 << 20)  # more than what the buffers of a connection hold
    with BusyServer(lambda asked: [whole(final("ok"))]) as server:
        client = any_client(server.url, timeouts=Timeouts(connect=0.4), max_retries=0)
        assert [client.complete(large).content for _ in range(2)] == ["ok", "ok"]
        assert len(server.asked) == 2
        begun = time.monotonic()
        with pytest.raises(errors.TimedOut, match=r"within 0\.5 s"):
            client.complete(large, timeouts=0.5)
        assert time.monotonic() - begun < 0.95


def test_leaving_a_stream_closes_its_socket(any_client: MakeClient, serve: Serve) -> None:
    """Whoever leaves a stream is noticed at the other end."""
    server = serve(lambda asked: [stream_head(), event(said("a")), Verb.AWAIT_HANGUP])
    chunks = any_client(server.url).stream("x")
    assert next(chunks).content == "a"
    chunks.close()
    assert server.hung_up.wait(5)


def test_whole_streams_keep_the_connection(any_client: MakeClient, serve: Serve) -> None:
    """After its end a stream's connection is used again, also if the reader left at `final`."""
    server = serve(lambda asked: [stream(said("a"), final("b"))])
    client = any_client(server.url)
    for _ in range(3):
        assert texts(client.stream("x")) == ["a", "b"]
    chunks = client.stream("x")
    while next(chunks).final is None:
        pass
    chunks.close()
    assert client.stream("x") and texts(client.stream("x")) == ["a", "b"]
    assert wait_until(lambda: len(server.asked) == 5) and server.num_connections == 1


def test_an_event_too_large(
    any_client: MakeClient, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line without end does not fill the memory."""
    endless = [piece(b"data: " + b"x" * (1 << 20))] + [piece(b"x" * (1 << 20))] * 40
    server = serve(lambda asked: [stream_head(), *endless])
    with pytest.raises(errors.InvalidReply, match="larger than"):
        list(any_client(server.url).stream("x"))


def test_a_json_answer_to_a_stream(any_client: MakeClient, serve: Serve) -> None:
    """A gateway that does not stream answers whole: one chunk, which is the last."""
    server = serve(lambda asked: [whole(final("all at once"))])
    chunks = list(any_client(server.url).stream("x"))
    assert [chunk.content for chunk in chunks] == ["all at once"]
    assert chunks[0].final is not None and chunks[0].final.stop_type == "eos"


def test_done_without_a_last_object(any_client: MakeClient, serve: Serve) -> None:
    """Some gateways end with `[DONE]` alone: what came is the answer."""
    done = piece(b"data: [DONE]\n\n")
    server = serve(lambda asked: [stream_head() + event(said("a", slot_id=3)) + done + STREAM_END])
    last = list(any_client(server.url).stream("x"))[-1].final
    assert last is not None and (last.content, last.slot_id, last.stop_type) == ("a", 3, "none")


def test_nothing_after_the_end(any_client: MakeClient, serve: Serve) -> None:
    """What follows the last event is not handed on."""
    server = serve(lambda asked: [stream(final("a"), said("b"), final("c"))])
    assert texts(any_client(server.url).stream("x")) == ["a"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.AuthenticationError),
        (402, errors.PaymentRequired),
        (422, errors.BadRequest),
        (503, errors.Unavailable),
    ],
)
@pytest.mark.parametrize(
    "detail", ["no credit left", [{"loc": ["body", "n"], "msg": "no credit left", "type": "t"}]]
)
def test_libertai_details(
    any_client: MakeClient, serve: Serve, status: int, kind: type[Exception], detail: Any
) -> None:
    """`{"detail": …}`, as text or as FastAPI's list."""
    server = serve(lambda asked: [whole({"detail": detail}, status)])
    with pytest.raises(kind, match="no credit left"):
        any_client(server.url, max_retries=0).complete("x")
