"""Small vocabularies of the three usual kinds, and llguidance's matchers over them.

In: nothing. Out: `Vocabulary` objects whose tokens split characters in every way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

END, CONTROL = 0, 1
SPECIAL = [b"<eos>", b"<|mark|>"]
WORDS = [
    "a",
    "b",
    "c",
    "ab",
    "abc",
    "aa",
    "ba",
    "1",
    "12",
    "é",
    "è",
    "あ",
    "い",
    "😀",
    '"',
    " ",
    "\n",
]
PIECES = [
    *WORDS,
    " a",
    "a ",
    'a"',
    '"a',
    "\n\n",
    " \n",
    "aé",
    "éa",
    "éè",
    "あい",
    "b😀",
    '", "',
    "cab",
]
SPLIT = [
    b"a\xc3",
    b"\xc3",
    b"\xa9b",
    b"\xa9\xc3",
    b"\xe3\x81",
    b"\x81\x82",
    b"\x82a",
    b"\xf0\x9f",
    b"\x98\x80",
]
SINGLE_BYTES = [bytes([each]) for each in range(255)]


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id. Invariant: 0 ends an answer, 1 is a control token; neither is text."""

    name: str
    tokens: list[bytes]
    bos_token_id: None = None
    eos_token_id: int = END
    special_token_ids: list[int] = field(default_factory=lambda: [END, CONTROL])

    @cached_property
    def native(self) -> LLTokenizer:
        return LLTokenizer(TokenizerWrapper(self), n_vocab=len(self.tokens))

    def __call__(self, text: str | bytes) -> list[int]:
        """Longest match first; bytes without a token are left out."""
        data = text.encode() if isinstance(text, str) else text
        ids, at = [], 0
        while at < len(data):
            fitting = [each for each in self._texts if data.startswith(each, at)]
            longest = max(fitting, key=len, default=b"")
            ids += [self._texts[longest]] if longest else []
            at += len(longest) or 1
        return ids

    @cached_property
    def _texts(self) -> dict[bytes, int]:
        return {token: at for at, token in reversed([*enumerate(self.tokens)]) if at > CONTROL}

    def matcher(self, lark: str) -> LLMatcher:
        """A matcher that compiled."""
        limits: Any = LLParserLimits(step_max_items=1_000_000, max_items_in_row=5000)
        matcher = LLMatcher(self.native, lark, log_level=0, limits=limits)
        assert not matcher.is_error(), f"{matcher.get_error()}\n{lark}"
        return matcher


def _made(name: str, pieces: list[bytes]) -> Vocabulary:
    return Vocabulary(name, [*SPECIAL, *dict.fromkeys(pieces)])


def byte_level() -> Vocabulary:
    """Every byte, and merges that end within characters."""
    return _made("byte-level BPE", [*SINGLE_BYTES, *SPLIT, *(each.encode() for each in PIECES)])


def byte_fallback() -> Vocabulary:
    """Whole characters and words, and every byte for what is not among them."""
    return _made("SentencePiece", [*(each.encode() for each in PIECES), *SINGLE_BYTES])


def word_pieces() -> Vocabulary:
    """Words with a space before them and continuations; no bytes, so much cannot be written."""
    words = [each.strip() for each in PIECES if each.strip()]
    return _made("WordPiece", [each.encode() for word in words for each in (f" {word}", word)])
