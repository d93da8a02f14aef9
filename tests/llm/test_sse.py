"""The stream decoder: the same events, however the bytes were cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libertai_llm.errors import IncompleteStream, InvalidReply
from libertai_llm.sse import Event, EventReader, SSEDecoder

BODY = (
    b"\xef\xbb\xbf: a comment\r\n\r\n"
    b"data: one\n\n"
    b"data:no space\r\n\r\n"
    b"data:  two spaces\r\r"
    b"event: error\ndata: named\n\n"
    b"data: first line\ndata: second line\ndata\n\n"
    b"id: 7\nretry: 10\nunknown: x\n: ping\n\n"
    b'error: {"content":"gone"}\n\n' + "data: 🦙 größer\n\n".encode() + b"data: [DONE]\n\n"
)
EVENTS = [
    Event("message", "one"),
    Event("message", "no space"),
    Event("message", " two spaces"),
    Event("error", "named"),
    Event("message", "first line\nsecond line\n"),
    Event("error", '{"content":"gone"}'),
    Event("message", "🦙 größer"),
    Event("message", "[DONE]"),
]


def decode(pieces: list[bytes]) -> list[Event]:
    decoder = SSEDecoder()
    events = [event for each in pieces for event in decoder.push(each)]
    last = decoder.flush()
    return events + ([last] if last else [])


def test_the_whole_body_at_once() -> None:
    """Comments, line ends of all kinds, several lines of data, BOM, unknown fields."""
    assert decode([BODY]) == EVENTS


@pytest.mark.parametrize("cut", range(len(BODY) + 1))
def test_cut_anywhere(cut: int) -> None:
    """One cut, at every byte: inside UTF-8 and between CR and LF too."""
    assert decode([BODY[:cut], BODY[cut:]]) == EVENTS


def test_byte_by_byte() -> None:
    """Every byte alone."""
    assert decode([BODY[i : i + 1] for i in range(len(BODY))]) == EVENTS


@given(st.lists(st.integers(0, len(BODY)), max_size=20))
def test_cut_many_times(cuts: list[int]) -> None:
    """Any set of cuts."""
    places = [0, *sorted(cuts), len(BODY)]
    assert decode([BODY[a:b] for a, b in zip(places, places[1:], strict=False)]) == EVENTS


@given(st.text(), st.data())
def test_any_text_survives(text: str, data: st.DataObject) -> None:
    """JSON text of any characters comes through, split anywhere."""
    body = b"data: " + json.dumps({"content": text}, ensure_ascii=False).encode() + b"\n\n"
    cut = data.draw(st.integers(0, len(body)))
    items, _ = read(body[:cut], body[cut:])
    assert items == [{"content": text}]


def test_a_last_event_without_an_empty_line() -> None:
    """Some servers forget it; the event counts all the same, also behind a lone CR."""
    for end in (b"", b"\n", b"\r", b"\r\n"):
        assert decode([b"data: x" + end]) == [Event("message", "x")]


def test_long_lines_take_linear_time() -> None:
    """A megabyte in small pieces is not searched again and again."""
    decoder = SSEDecoder()
    for _ in range(20_000):
        assert list(decoder.push(b"data: " if _ == 0 else b"x" * 50)) == []
    (event,) = decoder.push(b"\n\n")
    assert len(event.data) == 19_999 * 50


@pytest.mark.parametrize("piece", [b"x" * 50, b"data: x\n", b"data:\n", b"\r"])
def test_an_event_has_a_largest_size(piece: bytes) -> None:
    """Neither a line without end nor data lines without end fill the memory."""
    decoder = SSEDecoder(max_bytes=1000)
    if piece == b"\r":
        for _ in range(5000):
            list(decoder.push(piece))
        return
    with pytest.raises(InvalidReply, match="larger than 1000"):
        for _ in range(2000):
            list(decoder.push(piece))


def read(*pieces: bytes) -> tuple[list[dict[str, Any]], EventReader]:
    reader = EventReader()
    return [item for piece in pieces for item in reader.push(piece)], reader


def test_objects_until_the_end() -> None:
    """`stop: true`, `[DONE]` and errors end a stream; nothing comes after."""
    for end, last in [
        (b'data: {"content":"","stop":true}\n\n', [{"content": "", "stop": True}]),
        (b"data: [DONE]\n\n", []),
        (b'data: {"error":{"code":500}}\n\n', [{"error": {"code": 500}}]),
        (b'error: {"content":"x"}\n\n', [{"error": {"content": "x"}}]),
        (b"error: plain words\n\n", [{"error": "plain words"}]),
    ]:
        items, reader = read(b'data: {"content":"a","stop":false}\n\n', end, b"data: {}\n\n")
        assert items == [{"content": "a", "stop": False}, *last]
        assert reader.is_done and list(reader.close()) == []


def test_an_empty_error_is_no_error() -> None:
    """`"error": null` in an event of a stream that goes on."""
    items, reader = read(b'data: {"content":"a","error":null}\n\n')
    assert len(items) == 1 and not reader.is_done


@pytest.mark.parametrize("data", [b"nonsense", b"[1]", b'"text"', b"5", b"{", b"[" * 100_000])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    """In the middle of a stream everything must be a JSON object."""
    with pytest.raises(InvalidReply):
        read(b"data: " + data + b"\n\n")


def test_the_end_of_the_body() -> None:
    """Before the end was announced it is an error, which knows whether anything came."""
    for body, has_begun in [(b"", False), (b": ping\n\n", True), (b"data: {}\n\n", True)]:
        _, reader = read(body)
        with pytest.raises(IncompleteStream) as caught:
            list(reader.close())
        assert caught.value.has_begun is has_begun
    _, reader = read(b'data: {"stop":true}')
    assert list(reader.close()) == [{"stop": True}]
    _, reader = read(b'data: {"stop":tr')
    with pytest.raises(IncompleteStream):
        list(reader.close())
