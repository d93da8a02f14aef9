"""Reads what stands for text or tokens in a GBNF rule: literals, classes, "." and token references.

In: a scanner at the first character of such an item. Out: its node; the scanner behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from libertai_engine.grammar.code_points import LAST_CODE_POINT, complement, normalised
from libertai_engine.grammar.limits import GrammarLimits
from libertai_engine.grammar.scanner import Scanner
from libertai_engine.grammar.syntax import Chars, Literal, Node, Token

_PLAIN = re.compile(r'[^"\\]+')
_TOKEN_TEXT = re.compile(r"<[^>]*>")
_LARGEST_TOKEN_ID = 2**32 - 1
_LONGEST_QUOTE = 80


class TerminalReader:
    """Reads terminals. Invariant: every text of a token is looked up once."""

    def __init__(
        self,
        scanner: Scanner,
        token_id_of: Callable[[str], int | None],
        limits: GrammarLimits,
    ) -> None:
        self._scanner = scanner
        self._token_id_of = token_id_of
        self._limits = limits
        self._token_ids: dict[str, int] = {}
        self._any_char = Chars(complement(()))
        self._readers = {'"': self._literal, "[": self._chars, ".": self._any}
        self._readers |= {"<": self._token, "!": self._other_token}

    def starts_with(self, symbol: str) -> bool:
        """Whether an item that begins with this character is a terminal."""
        return symbol in self._readers

    def read(self) -> Node | None:
        """The terminal that comes next; None if it stands for the empty text.

        Raises:
            InvalidRequest: it does not end, holds a bad escape, or names no token.
        """
        return self._readers[self._scanner.peek()]()

    def _any(self) -> Node:
        self._scanner.skip(".")
        return self._any_char

    def _literal(self) -> Node | None:
        start = self._scanner.position
        self._scanner.skip('"')
        pieces: list[str] = []
        is_possible = True
        while not self._scanner.skip('"'):
            pieces.append(self._scanner.run(_PLAIN))
            if self._scanner.peek() != '"':
                code_point = self._scanner.code_point("'\"'", start)
                is_possible &= code_point <= LAST_CODE_POINT
                pieces.append(chr(min(code_point, LAST_CODE_POINT)))
        if not is_possible:
            return Chars(())
        return Literal("".join(pieces)) if pieces else None

    def _chars(self) -> Node | None:
        start = self._scanner.position
        self._scanner.skip("[")
        is_negated = self._scanner.skip("^")
        ranges: list[tuple[int, int]] = []
        while not self._scanner.skip("]"):
            first = last = self._scanner.code_point('"]"', start)
            # A dash right before the end is a dash, not a range.
            if not self._scanner.comes("-]") and self._scanner.skip("-"):
                last = self._scanner.code_point('"]"', start)
            ranges.append((first, last))
        # NOTE: like llama.cpp, "[^]" is the empty text, not every character.
        if not ranges:
            return None
        return Chars(complement(ranges) if is_negated else normalised(ranges))

    def _token(self) -> Node:
        return Token(self._token_id())

    def _other_token(self) -> Node:
        self._scanner.skip("!")
        return Token(self._token_id(), is_negated=True)

    def _token_id(self) -> int:
        start = self._scanner.position
        if not self._scanner.comes("<"):
            raise self._scanner.expected('a token, "<text>" or "<[id]>"')
        if not self._scanner.skip("<["):
            return self._named_token(start)
        token_id = self._scanner.number("the id of a token")
        self._scanner.expect('"]>"', "]>")
        if token_id > _LARGEST_TOKEN_ID:
            raise self._scanner.failure("the id of the token is too large", start)
        return token_id

    def _named_token(self, start: int) -> int:
        text = self._scanner.run(_TOKEN_TEXT)
        if not text:
            raise self._scanner.failure('expected a ">" to end the token', start)
        if text not in self._token_ids:
            is_short = len(text) <= self._limits.token_text
            token_id = self._token_id_of(text) if is_short else None
            if token_id is None:
                quote = ascii(text[:_LONGEST_QUOTE])
                raise self._scanner.failure(f"expected exactly one token, found {quote}", start)
            self._token_ids[text] = token_id
        return self._token_ids[text]
