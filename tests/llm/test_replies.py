"""What servers say when something is wrong, as typed errors."""

from __future__ import annotations

import email.utils
import json
import pickle
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libertai_llm import errors
from libertai_llm.replies import (
    engine_error,
    http_error,
    is_events,
    read_object,
    retry_after_of,
    stream_error,
)


def error_of(status: int, body: Any, path: str = "/completion", **headers: str) -> errors.APIError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http_error(status, headers, raw, path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"code": 400, "message": "bad", "type": "invalid_request_error"}}, "bad"),
        ({"error": "bad"}, "bad"),
        ({"detail": "bad"}, "bad"),
        ({"detail": [{"loc": ["body", "n"], "msg": "bad"}, {"msg": "x"}]}, "body.n: bad; x"),
        ({"detail": {"message": "bad"}}, "bad"),
        ({"message": "bad"}, "bad"),
        (b"500 Internal Server Error\n[json.exception.type_error.302] type must be", "302"),
        (b"<html><head><style>a{b:c}</style></head><h1>bad</h1></html>", "bad"),
        (b"", "the server answered 400"),
        (b"\xff\xfe\x00", "400|�"),
        ({}, "the server answered 400"),
        ([], "the server answered 400"),
        ({"error": None}, "the server answered 400"),
        ({"error": {}}, "the server answered 400"),
    ],
)
def test_messages(body: Any, message: str) -> None:
    """Every form in which a server words its refusal."""
    error = error_of(400, body)
    assert type(error) is errors.BadRequest and error.status == 400
    assert any(each in error.message for each in message.split("|"))
    assert "(status 400)" in str(error)


@pytest.mark.parametrize(
    ("status", "kind", "is_retryable"),
    [
        (400, errors.BadRequest, False),
        (401, errors.AuthenticationError, False),
        (402, errors.PaymentRequired, False),
        (403, errors.PermissionDenied, False),
        (404, errors.NotFound, False),
        (405, errors.BadRequest, False),
        (413, errors.BadRequest, False),
        (418, errors.APIError, False),
        (422, errors.BadRequest, False),
        (429, errors.RateLimited, True),
        (500, errors.ServerError, True),
        (501, errors.NotSupported, False),
        (502, errors.ServerError, True),
        (503, errors.Unavailable, True),
        (504, errors.ServerError, True),
    ],
)
def test_statuses(status: int, kind: type[errors.APIError], is_retryable: bool) -> None:
    """One class for each status, and whether trying again can help."""
    error = error_of(status, {"error": "no"})
    assert type(error) is kind and error.is_retryable is is_retryable


def test_words_of_2023_that_never_change() -> None:
    """A body that its JSON library refuses will be refused again."""
    assert not error_of(500, b"[json.exception.parse_error.101] parse error").is_retryable


@pytest.mark.parametrize(
    ("error", "numbers"),
    [
        (
            {
                "code": 400,
                "message": "the request exceeds the available context size",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 9000,
                "n_ctx": 4096,
            },
            (9000, 4096),
        ),
        ({"message": "the request (9000 tokens) exceeds the available context size (4096 tokens)"},
         (9000, 4096)),
        ({"message": "the request exceeds the available context size. try increasing it"},
         (None, None)),
        ({"message": "too many", "code": "context_length_exceeded"}, (None, None)),
        ({"message": "input is longer than the maximum context length"}, (None, None)),
    ],
)  # fmt: skip
def test_context_overflow(error: dict[str, Any], numbers: tuple[int | None, int | None]) -> None:
    """Known by its type, its code or its words, over HTTP and inside a stream."""
    found = error_of(400, {"error": error})
    assert isinstance(found, errors.ContextWindowExceeded)
    assert (found.n_prompt_tokens, found.n_ctx) == numbers
    assert isinstance(stream_error({"error": error}), errors.ContextWindowExceeded)


@pytest.mark.parametrize(
    "message",
    ["`n_keep` must be below the context size", "context window settings are read-only", "no"],
)
def test_other_refusals_are_no_overflow(message: str) -> None:
    """Only naming the context is not exceeding it."""
    assert type(error_of(400, {"error": {"message": message}})) is errors.BadRequest


def test_overflow_words_with_another_meaning() -> None:
    """A refused key stays a refused key, whatever else is said."""
    found = error_of(401, {"detail": "key exceeds the context size"})
    assert type(found) is errors.AuthenticationError


def test_busy_slots_of_2023() -> None:
    """Only on the generating routes, only with that server's very words."""
    text = b"File Not Found"
    for path in ("/completion", "/infill"):
        assert isinstance(error_of(404, text, path), errors.SlotUnavailable)
    assert type(error_of(404, text, "/props")) is errors.NotFound
    assert type(error_of(404, b"<h1>Not Found</h1>")) is errors.NotFound
    busy = stream_error({"error": {"content": "slot unavailable"}})
    assert isinstance(busy, errors.SlotUnavailable) and not busy.has_begun


def test_stream_errors_keep_their_status() -> None:
    """An error inside a stream is the class of the status it names; it has begun."""
    for code, kind in [(400, errors.BadRequest), (503, errors.Unavailable)]:
        found = stream_error({"error": {"code": code, "message": "x", "type": "t"}})
        assert type(found) is kind and found.status == code and found.type == "t"
        assert found.has_begun
    for code in (None, "x", 5, True, 99999):
        assert type(stream_error({"error": {"code": code, "message": "x"}})) is errors.ServerError


def test_engine_errors_are_http_errors() -> None:
    """The same failure is the same error in-process and over HTTP."""
    fields = {"code": 503, "message": "the queue is full", "type": "unavailable_error"}
    local = engine_error(503, fields, 2.0)
    remote = error_of(503, {"error": fields}, **{"Retry-After": "2"})
    assert type(local) is type(remote) is errors.Unavailable
    assert vars(local) == vars(remote)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), ("1.5", 1.5), ("-3", 0), ("inf", None), ("nan", None), ("soon", None), ("", None)],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    """Numbers of seconds; nonsense is not told."""
    assert retry_after_of({"Retry-After": value}) == seconds


def test_retry_after_as_a_date() -> None:
    """A date is as many seconds away as it is; a past one none."""
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 25 < (retry_after_of({"Retry-After": soon}) or 0) <= 30
    assert retry_after_of({"Retry-After": "Mon, 01 Jan 2001 00:00:00 GMT"}) == 0


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (None, True),
        ("text/event-stream; charset=utf-8", True),
        ("Text/Event-Stream", True),
        ("application/json; charset=utf-8", False),
        ("text/html", False),
    ],
)
def test_what_is_a_stream(kind: str | None, expected: bool) -> None:
    """Events unless something else is said."""
    assert is_events(kind) is expected


def test_good_answers() -> None:
    """An object is returned, an error in it raised, everything else refused."""
    assert read_object(b'{"content":"x","error":null}') == {"content": "x", "error": None}
    with pytest.raises(errors.NotFound):
        read_object(b'{"error":{"code":404,"message":"no"}}')
    for body in (b"", b"[]", b"5", b"nonsense", b"\xff", b"[" * 100_000):
        with pytest.raises(errors.InvalidReply):
            read_object(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["error", "detail", "message", "code", "type", "content", "loc"]), inner
    ),
    max_leaves=10,
)  # fmt: skip


@given(st.integers(300, 599), JSON | st.binary())
def test_no_body_breaks_the_reader(status: int, body: Any) -> None:
    """Whatever a server sends, the result is an `APIError` with a short text that pickles."""
    found = error_of(status, body)
    assert len(found.message) < 700
    again = pickle.loads(pickle.dumps(found))
    assert str(again) == str(found) and again.status == status
    stream_error({"error": body if not isinstance(body, bytes) else "x"})


@pytest.mark.parametrize(
    "error",
    [
        errors.IncompleteStream("cut", partial_text="abc"),
        errors.TimedOut("late", phase="connect"),
        errors.InvalidOption("bad", field="top_k"),
        errors.ConnectError("gone", is_retryable=False),
        errors.EngineNotInstalled("pip install"),
        error_of(400, {"error": {"type": "exceed_context_size_error", "n_ctx": 1,
                                 "n_prompt_tokens": 2}}),
    ],
)  # fmt: skip
def test_errors_travel_between_processes(error: errors.LibertaiError) -> None:
    """Pickled errors keep their class, their words and their facts."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)
    assert again.partial_text == error.partial_text
