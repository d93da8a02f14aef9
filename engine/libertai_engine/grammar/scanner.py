"""The characters of a GBNF text, one token at a time.

In: the text. Out: names, numbers, characters with their escapes resolved; errors that say the line,
the column and what was expected.

The rules are those of llama.cpp's `llama-grammar.cpp`: names are ASCII letters, digits and dashes;
`#` starts a comment; `\\x`, `\\u` and `\\U` take exactly 2, 4 and 8 hexadecimal digits and mean a
code point, never a byte.
"""

from __future__ import annotations

import re

from libertai_engine.errors import InvalidRequest

_NAME = re.compile(r"[A-Za-z0-9-]+")
_NUMBER = re.compile(r"[0-9]+")
_SPACE = re.compile(r"(?:[ \t]+|#[^\r\n]*)*")
_SPACE_AND_NEWLINES = re.compile(r"(?:[ \t\r\n]+|#[^\r\n]*)*")
_NEWLINE = re.compile(r"\r\n|\r|\n")
_HEX = {"x": re.compile(r"[0-9A-Fa-f]{2}"), "u": re.compile(r"[0-9A-Fa-f]{4}")}
_HEX |= {"U": re.compile(r"[0-9A-Fa-f]{8}")}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n"} | {char: char for char in '\\"[]-'}
# Digits of the largest number that llama.cpp reads, 2^64 - 1.
_MOST_DIGITS = 20


class Scanner:
    """Reads a text from left to right. Invariant: `position` is in the text or at its end."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def peek(self) -> str:
        """The character that comes next, "" at the end."""
        return self.text[self.position : self.position + 1]

    def skip_space(self, *, newlines: bool) -> None:
        """Leaves spaces, tabs and comments behind, and line ends if `newlines`."""
        pattern = _SPACE_AND_NEWLINES if newlines else _SPACE
        self._take(pattern)

    def skip_newline(self) -> bool:
        """Leaves one line end behind. False: there was none."""
        return self._take(_NEWLINE) is not None

    def skip(self, symbol: str) -> bool:
        """Leaves `symbol` behind. False: something else comes next."""
        if not self.comes(symbol):
            return False
        self.position += len(symbol)
        return True

    def comes(self, symbol: str) -> bool:
        """Whether `symbol` comes next."""
        return self.text.startswith(symbol, self.position)

    def comes_name(self) -> bool:
        """Whether a rule's name comes next."""
        return _NAME.match(self.text, self.position) is not None

    def expect(self, what: str, symbol: str) -> None:
        """Leaves `symbol` behind. Raises InvalidRequest: something else comes where `what` must."""
        if not self.skip(symbol):
            raise self.expected(what)

    def name(self, what: str) -> str:
        """A rule's name. Raises InvalidRequest: there is none; `what` says what was expected."""
        name = self._take(_NAME)
        if name is None:
            raise self.expected(what)
        return name

    def number(self, what: str) -> int:
        """A number in decimal digits. Raises InvalidRequest: there is none, or it is too long."""
        start = self.position
        digits = self._take(_NUMBER)
        if digits is None:
            raise self.expected(what)
        if len(digits) > _MOST_DIGITS:
            raise self.failure("the number is too large", start)
        return int(digits)

    def run(self, pattern: re.Pattern[str]) -> str:
        """The characters that `pattern` takes, none if it does not match."""
        return self._take(pattern) or ""

    def code_point(self, closing: str, opened_at: int) -> int:
        """One character or escape; up to 2^32 - 1, since `\\U` can name what is not Unicode.

        Raises:
            InvalidRequest: a bad escape; or the end of the text, where `closing` was expected, what
                ends the item that began at `opened_at`.
        """
        char = self.peek()
        if not char:
            raise self.expected(f"the closing {closing} of what begins in {self.place(opened_at)}")
        if char == "\\":
            return self._escape()
        self.position += 1
        return ord(char)

    def expected(self, what: str) -> InvalidRequest:
        """The error to raise where `what` should have come next."""
        char = self.peek()
        found = f"found {ascii(char)}" if char else "found the end of the grammar"
        return self.failure(f"expected {what}, {found}")

    def failure(self, message: str, position: int | None = None) -> InvalidRequest:
        """The error to raise about what stands at `position`, or comes next."""
        place = self.place(position)
        return InvalidRequest(f"failed to parse grammar: {place}: {message}", field="grammar")

    def place(self, position: int | None = None) -> str:
        """Line and column of `position`, or of what comes next.

        Both are counted from 1, columns in code points.
        """
        where = self.position if position is None else position
        ends = [end.end() for end in _NEWLINE.finditer(self.text, 0, where)]
        return f"line {len(ends) + 1}, column {where - (ends[-1] if ends else 0) + 1}"

    def _escape(self) -> int:
        start = self.position
        letter = self.text[start + 1 : start + 2]
        self.position += 2
        if letter in _HEX:
            digits = self._take(_HEX[letter])
            if digits is None:
                wanted = _HEX_DIGITS[letter]
                raise self.failure(f"expected {wanted} hexadecimal digits after \\{letter}", start)
            return int(digits, 16)
        if letter not in _ESCAPES:
            known = 'one of \\t \\r \\n \\\\ \\" \\[ \\] \\- \\x \\u \\U'
            raise self.failure(f"expected an escape, {known}, found \\{ascii(letter)[1:-1]}", start)
        return ord(_ESCAPES[letter])

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self.text, self.position)
        if match is None:
            return None
        self.position = match.end()
        return match.group()
