"""One call's JSON object, read as it comes: its name first, then its arguments in pieces.

In: the text after the opening mark, in any pieces. Out: `name`, new text of the arguments, and
whether the object has ended or is none. The time it takes is linear in the text.
"""

from __future__ import annotations

import json
from typing import Any, Literal

Place = Literal["start", "key", "colon", "value", "comma", "done", "broken"]

_SPACE = frozenset(" \t\r\n")
_CLOSERS = {"{": "}", "[": "]"}
_OUTSIDE_STRINGS = frozenset(' \t\r\n{}[]:,"+-.0123456789eE' + "truefalsenull" + "NaInfity")
_ARGUMENTS = frozenset({"arguments", "parameters"})


class CallScanner:
    """Reads `{"name": …, "arguments": {…}}`, with the keys in any order and others ignored.

    Invariant: `text` is everything that was read and belongs to the call. `name` is set once and
    never changes; `arguments` is the raw JSON text of the arguments so far, or what a JSON string
    in their place holds. Once `place` is "done" or "broken", nothing more is read; then `reason`
    says what is wrong, if anything is.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.reason = ""
        self.place: Place = "start"
        self._text: list[str] = []
        self._arguments: list[str] = []
        self._num_told = 0
        self._key = ""
        self._value: list[str] = []
        self._closers: list[str] = []
        self._is_in_string = False
        self._is_escaped = False
        self._has_arguments = False

    @property
    def text(self) -> str:
        """Everything that belongs to the call."""
        return "".join(self._text)

    @property
    def arguments(self) -> str:
        """The arguments so far."""
        return "".join(self._arguments)

    def new_arguments(self) -> str:
        """What has come of the arguments since this was asked last."""
        told, self._num_told = self._num_told, len(self._arguments)
        return "".join(self._arguments[told:])

    def add_text(self, text: str) -> None:
        """Further text of a call that is broken."""
        self._text.append(text)

    def feed(self, text: str) -> str:
        """Read on. Returns what does not belong to the object: what broke it, or comes after it."""
        for index, char in enumerate(text):
            if self.place == "done":
                self._text.append(text[:index])
                return text[index:]
            self._read(char)
            if self.place == "broken":
                self._text.append(text[:index])
                return text[index:]
        self._text.append(text)
        return ""

    def end(self) -> None:
        """Nothing more comes. A call whose arguments are not whole is cut off."""
        if self.place not in ("done", "broken"):
            if self.name is None or not self._has_arguments:
                self._break("the call is cut off")
            else:
                self._close()

    def _read(self, char: str) -> None:
        if self.place == "value":
            self._read_value(char)
        elif char not in _SPACE:
            self._read_between(char)

    def _read_between(self, char: str) -> None:
        """A character outside of keys and values."""
        steps: dict[tuple[Place, str], Place] = {
            ("start", "{"): "key",
            ("colon", ":"): "value",
            ("comma", ","): "key",
        }
        following = steps.get((self.place, char))
        if following is not None:
            self.place = following
            self._key = "" if following == "key" else self._key
        elif char == "}" and self.place in ("key", "comma"):
            self._close()
        elif self.place == "key" and char == '"':
            self.place = "value"
            self._start_value(char)
        else:
            self._break(f"{char!r} is not expected in the call's JSON")

    def _read_value(self, char: str) -> None:
        if not self._value:
            if char not in _SPACE:
                self._start_value(char)
        elif self._is_in_string:
            self._read_string(char)
        elif not self._closers:
            self._read_plain(char)
        else:
            self._read_nested(char)

    def _start_value(self, char: str) -> None:
        self._is_in_string = char == '"'
        self._closers = [_CLOSERS[char]] if char in _CLOSERS else []
        self._take(char)

    def _read_string(self, char: str) -> None:
        if char < " ":
            return self._break("a line break or control character in a string")
        self._take(char)
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            self._is_in_string = False
            if not self._closers:
                self._end_value()

    def _read_nested(self, char: str) -> None:
        is_wrong_end = char in "]}" and char != self._closers[-1]
        if is_wrong_end or char not in _OUTSIDE_STRINGS:
            return self._break(f"{char!r} is not expected in the call's JSON")
        self._take(char)
        if char == '"':
            self._is_in_string = True
        elif char in _CLOSERS:
            self._closers.append(_CLOSERS[char])
        elif char in "]}":
            self._closers.pop()
            if not self._closers:
                self._end_value()

    def _read_plain(self, char: str) -> None:
        """A number or a literal: ends where something else begins."""
        if char in _SPACE:
            self._end_value()
        elif char in ",}":
            self._end_value()
            if self.place == "comma":
                self._read_between(char)
        else:
            self._take(char)

    def _take(self, char: str) -> None:
        self._value.append(char)
        is_object = self._value[0] == "{"
        if self._key in _ARGUMENTS and is_object and not self._has_arguments:
            self._arguments.append(char)

    def _end_value(self) -> None:
        raw, self._value = "".join(self._value), []
        try:
            value = json.loads(raw)
        # NOTE: brackets may nest deeper than Python's parser goes.
        except (ValueError, RecursionError) as error:
            return self._break(f"no JSON: {error}")
        self.place = "comma"
        if not self._key:
            self._key = value
            # NOTE: an empty key would be taken for none.
            self.place = "colon" if value else "broken"
            self.reason = "" if value else "an empty key"
        elif self._key == "name":
            self._end_name(value)
        elif self._key in _ARGUMENTS:
            self._end_arguments(value)

    def _end_name(self, value: Any) -> None:
        if self.name is not None:
            self._break("two names")
        elif not isinstance(value, str) or not value:
            self._break("the name is no text")
        else:
            self.name = value

    def _end_arguments(self, value: Any) -> None:
        if self._has_arguments:
            return self._break("arguments twice")
        if isinstance(value, str):  # some models write the object as text
            self._arguments = [value]
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return self._break("the arguments are no JSON")
        if not isinstance(value, dict):
            return self._break("the arguments are no JSON object")
        self._has_arguments = True

    def _close(self) -> None:
        if self.name is None:
            return self._break("no name")
        if not self._has_arguments:
            self._arguments, self._has_arguments = ["{}"], True
        self.place = "done"

    def _break(self, reason: str) -> None:
        self.place, self.reason = "broken", reason
