"""Server-sent events, without I/O: bytes in, in pieces of any size; whole events out.

In: the body of a `text/event-stream`, as it arrives. Out: `Event`s, then JSON objects. Besides the
standard it reads what llama.cpp's servers really send: `error: {…}` lines (2023), `data:` without
a space, `[DONE]`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from libertai_llm.errors import IncompleteStream, InvalidReply

MAX_EVENT_BYTES = 16 << 20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event: `name` is "error" for error events, else usually "message"."""

    name: str
    data: str


class SSEDecoder:
    """Turns bytes into events.

    Invariant: the events of a body do not depend on how it was cut into pieces. Raises
    `InvalidReply` once a single event is larger than `max_bytes`.
    """

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._line = bytearray()
        self._scanned = 0
        self._is_first_line = True
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0

    def push(self, piece: bytes) -> Iterator[Event]:
        """The events that this piece completes."""
        self._line += piece
        while (line := self._take_line()) is not None:
            if event := self._read_line(line):
                yield event
        self._check_size(len(self._line))

    def flush(self) -> Event | None:
        """At the end of the body: the event that was never closed by an empty line, if any."""
        rest = bytes(self._line).rstrip(b"\r")
        self._line.clear()
        self._scanned = 0
        if rest:
            self._read_line(rest)
        return self._dispatch()

    def _take_line(self) -> bytes | None:
        """The next whole line. A CR at the very end waits: it may be half of a CRLF."""
        end = _find_line_end(self._line, self._scanned)
        if end < 0 or (self._line[end] == _CR and end + 1 == len(self._line)):
            self._scanned = len(self._line) if end < 0 else end
            return None
        line = bytes(self._line[:end])
        is_crlf = self._line[end : end + 2] == b"\r\n"
        del self._line[: end + 1 + is_crlf]
        self._scanned = 0
        return line

    def _read_line(self, line: bytes) -> Event | None:
        if self._is_first_line:
            line, self._is_first_line = line.removeprefix(_BOM), False
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            self._name = value.decode(errors="replace")
        elif field == b"error":
            self._name = "error"
            self._append(value)
        elif field == b"data":
            self._append(value)
        return None

    def _append(self, value: bytes) -> None:
        self._size += len(value) + bool(self._data)  # the lines will be joined by newlines
        self._data.append(value)
        self._check_size(0)

    def _dispatch(self) -> Event | None:
        name, data = self._name or "message", self._data
        self._name, self._data, self._size = "", [], 0
        return Event(name, b"\n".join(data).decode(errors="replace")) if data else None

    def _check_size(self, pending: int) -> None:
        if self._size + pending > self._max_bytes:
            raise InvalidReply(f"an event of the stream is larger than {self._max_bytes} bytes")


_CR = ord("\r")


def _find_line_end(buffer: bytearray, start: int) -> int:
    """Index of the first CR or LF from `start`, or -1."""
    newline = buffer.find(b"\n", start)
    carriage = buffer.find(b"\r", start, newline if newline >= 0 else len(buffer))
    return newline if carriage < 0 else carriage


class EventReader:
    """Turns the bytes of a completion's stream into its JSON objects.

    Invariant: nothing comes out after the end, which is an object with `stop: true`, an error, or
    `[DONE]`. Errors come out as `{"error": …}` objects, whatever form they had.
    """

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._decoder = SSEDecoder(max_bytes)
        self.is_done = False
        self.has_begun = False

    def push(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """The objects that this piece completes. Raises `InvalidReply` for what is no JSON."""
        self.has_begun = self.has_begun or bool(piece)
        for event in self._decoder.push(piece):
            if self.is_done:
                return
            if (item := self._read(event)) is not None:
                yield item

    def close(self) -> Iterator[dict[str, Any]]:
        """The body is over: what a last event without an empty line holds, if it is whole.

        Raises `IncompleteStream` if the end was never announced.
        """
        if self.is_done:
            return
        try:
            event = self._decoder.flush()
            item = None if event is None else self._read(event)
        except InvalidReply:
            item = None  # an event cut in the middle
        if item is not None:
            yield item
        if not self.is_done:
            raise IncompleteStream(
                "the stream ended before the answer did", has_begun=self.has_begun
            )

    def _read(self, event: Event) -> dict[str, Any] | None:
        if event.data.strip() == "[DONE]":
            self.is_done = True
            return None
        item = _read_json(event)
        self.is_done = item.get("stop") is True or bool(item.get("error"))
        return item


def _read_json(event: Event) -> dict[str, Any]:
    try:
        item = json.loads(event.data)
    except (ValueError, RecursionError):
        if event.name == "error":
            return {"error": event.data}
        raise InvalidReply("an event of the stream is no JSON") from None
    if event.name == "error":
        return item if isinstance(item, dict) and "error" in item else {"error": item}
    if not isinstance(item, dict):
        raise InvalidReply(f"an event of the stream is no object but {type(item).__name__}")
    return item
