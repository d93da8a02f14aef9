"""Texts to the token ids that an embedding model reads, with the model's own marks around them.

In: texts. Out: token ids, as the tokenizer's own template has them (`[CLS] … [SEP]`, `<s> …`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from libertai_engine.errors import InvalidRequest


class PassageTokenizer:
    """One embedding model's tokenizer. Safe from many threads.

    Invariant: neither of its backends pads; the second one, made when it is first needed, cuts
    texts to `max_tokens` tokens, marks included. `hf` is a fast transformers tokenizer.
    """

    def __init__(self, hf: Any, *, max_tokens: int, lower_case: bool = False) -> None:
        self._backend: Any = _copy(hf.backend_tokenizer)
        self._cutting: Any = None
        self._max_tokens = max_tokens
        self._lower_case = lower_case
        self._lock = threading.Lock()

    def encode(self, texts: Sequence[str], *, truncate: bool) -> list[list[int]]:
        """Token ids of each text. Raises `InvalidRequest` for text that has no UTF-8 form."""
        backend = self._cutter() if truncate else self._backend
        texts = [text.lower() for text in texts] if self._lower_case else texts
        try:
            # NOTE: unlike `encode`, this does not hold the interpreter's lock.
            return [each.ids for each in backend.encode_batch_fast(list(texts))]
        except (UnicodeError, TypeError) as error:
            raise InvalidRequest(f"the text is not valid Unicode: {error}") from error

    def encode_piece(self, text: str) -> list[int]:
        """Token ids of a text that stands between other tokens: without marks."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def _cutter(self) -> Any:
        with self._lock:
            if self._cutting is None:
                self._cutting = _copy(self._backend)
                self._cutting.enable_truncation(self._max_tokens)
            return self._cutting


def _copy(backend: Any) -> Any:
    """A backend of our own: calls on a transformers tokenizer change the shared one's settings."""
    copied = type(backend).from_str(backend.to_str())
    copied.no_truncation()
    copied.no_padding()
    return copied
