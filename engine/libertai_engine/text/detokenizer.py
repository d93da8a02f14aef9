"""Token ids to text, one at a time, never half a character.

In: ids as the model produces them. Out: text that is safe to send.
"""

from __future__ import annotations

import codecs
from typing import Protocol


class TokenBytes(Protocol):
    """The part of a tokenizer that the detokenizer needs."""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one token stands for."""
        ...


class Detokenizer:
    """The text of one sequence. Bytes held back are always the start of one UTF-8 character.

    All texts pushed plus the flushed rest are `tokenizer.decode` of all ids:

        push(<0xC3>) == ""      pending
        push(<0xA9>) == "é"
    """

    def __init__(self, tokenizer: TokenBytes) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def pending(self) -> bool:
        """True while an incomplete character is held (at most 3 bytes)."""
        return bool(self._decoder.getstate()[0])

    def push(self, token_id: int) -> str:
        """Text that `token_id` completes; bytes that can never become a character are U+FFFD."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """What is still held, as U+FFFD; the detokenizer is then as new."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
