"""What a grammar has to know of a tokenizer, and llguidance's own form of it.

In: plain facts about the tokens of a model. Out: a `TokenVocabulary`, made once for a tokenizer and
shared by all grammars, sequences and threads.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import llguidance
import numpy as np
import numpy.typing as npt

SIGNS = string.punctuation + string.digits + string.ascii_letters
LONGEST = 512  # bytes of a token; from 1024 on llguidance panics
NEVER_UTF8 = 0xFF  # no text has this byte; llguidance marks special tokens with it


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """The tokens of a model as a tokenizer tells them.

    `pieces` are the bytes of each id, b"" for one that never is text; `control` the ids of control
    tokens by their text; `end_ids` those that end an answer. `encode` tokenises a text that goes on
    behind other tokens, every letter of it text; `find` is the id of the one token that a text
    names, if it is one.
    """

    pieces: Sequence[bytes]
    control: Mapping[str, int]
    end_ids: frozenset[int]
    encode: Callable[[str], list[int]]
    find: Callable[[str], int | None]


class TokenVocabulary:
    """The tokens that grammars are matched in.

    Invariant: control tokens and ids from `size` on match no text; a text that `tokenize` returns
    ids for is spelled by them. Immutable, so any thread may use it.
    """

    def __init__(self, facts: TokenFacts, size: int) -> None:
        self.size = min(size, len(facts.pieces))
        self.control = {text: each for text, each in facts.control.items() if each < self.size}
        self.end_ids = frozenset(each for each in facts.end_ids if each < self.size)
        self._find = facts.find
        self._encode = facts.encode
        self._pieces = _textual(facts.pieces[: self.size], {*self.control.values(), *self.end_ids})
        self._ids = {piece: each for each, piece in reversed([*enumerate(self._pieces)]) if piece}
        self._longest = max(map(len, self._ids), default=0)
        # What llguidance looks for is the shape of `TokenizerWrapper`, not the class.
        source = cast("llguidance.TokenizerWrapper", _Source(self))
        self.native = llguidance.LLTokenizer(source, eos_token=self._end_list())

    @property
    def unused_ids(self) -> frozenset[int]:
        """Ids that are neither text nor a mark."""
        marks = {*self.control.values(), *self.end_ids}
        return frozenset(
            each for each, piece in enumerate(self._pieces) if not piece and each not in marks
        )

    @property
    def end_id(self) -> int:
        """One of the tokens that end an answer."""
        return self._end_list()[0]

    @cached_property
    def signs(self) -> tuple[int, ...]:
        """The tokens of single characters of ASCII: punctuation, digits, letters."""
        found = (self.ids_of(sign.encode()) for sign in SIGNS)
        return tuple(each for token_ids in found for each in token_ids)

    @cached_property
    def shortest(self) -> npt.NDArray[np.int64]:
        """All tokens that are text, the shortest first."""
        lengths = np.array([len(piece) for piece in self._pieces])
        order = lengths.argsort(kind="stable")
        return order[lengths[order] > 0]

    def ids_of(self, piece: bytes) -> tuple[int, ...]:
        """The token of exactly this text, if there is one."""
        return (self._ids[piece],) if piece in self._ids else ()

    def find(self, text: str) -> int | None:
        """The id of the one token that a text names, if it is one."""
        found = self._find(text)
        return found if found is not None and found < self.size else None

    def tokenize(self, text: str) -> list[int]:
        """Ids that spell `text`, as the tokenizer writes it where that is faithful."""
        wanted = text.encode()
        token_ids = self._encode(text)
        if self.spell(token_ids) == wanted:
            return token_ids
        return self._greedy(wanted)

    def spell(self, token_ids: Iterable[int]) -> bytes:
        """The text of these ids; marks and unknown ids have none."""
        return b"".join(self._pieces[each] if each < self.size else b"" for each in token_ids)

    def _greedy(self, wanted: bytes) -> list[int]:
        """The longest token at every place; a byte that no token begins with is left out."""
        token_ids, start = [], 0
        while start < len(wanted):
            ends = range(min(len(wanted), start + self._longest), start, -1)
            end = next((end for end in ends if wanted[start:end] in self._ids), None)
            if end is not None:
                token_ids.append(self._ids[wanted[start:end]])
            start = end or start + 1
        return token_ids

    def _end_list(self) -> list[int]:
        # NOTE: llguidance needs one; a model without any gets one that it can never choose.
        return sorted(self.end_ids) or [self.size]


class _Source:
    """The shape in which llguidance asks for a tokenizer. Never raises: it would panic."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: TokenVocabulary) -> None:
        pieces, ends = vocabulary._pieces, vocabulary._end_list()
        names = {each: text.encode() for text, each in vocabulary.control.items()}
        names |= {each: b"<|end %d|>" % each for each in ends if each not in names}
        self.tokens = [names.get(each, piece) for each, piece in enumerate(pieces)]
        self.tokens += [names[each] for each in ends if each >= len(pieces)]
        self.eos_token_id = ends[0]
        self.special_token_ids = sorted(names)
        self._tokenize = vocabulary.tokenize

    def __call__(self, text: str) -> list[int]:
        return self._tokenize(text)


def _textual(pieces: Sequence[bytes], control: Iterable[int]) -> list[bytes]:
    """The pieces that can be part of a text; the others are empty."""
    never = set(control)
    return [
        b"" if each in never or NEVER_UTF8 in piece or len(piece) > LONGEST else piece
        for each, piece in enumerate(pieces)
    ]
