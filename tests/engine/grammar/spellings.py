"""Vocabularies of the three usual kinds in which every answer of the data files can be spelled.

In: nothing but the data files. Out: `Spelling` objects: tokens, and two ways to write a text in
them, in the smallest tokens and in the largest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from random import Random

from libertai_engine.grammar.vocabulary import TokenFacts, TokenVocabulary
from tests.engine.grammar.cases import SPECIAL_TOKENS, VERDICT_FILES, Answer, cases_of

END = 0
CONTROL = {END: "</s>"} | {number: text for text, number in SPECIAL_TOKENS.items()}
CONTROL |= {number: f"<|mark-{number}|>" for number in (*range(10, 22), 1000, 1001)}
NUM_MERGES = 900


@dataclass(frozen=True)
class Spelling:
    """Tokens by id. Invariant: the ids in `CONTROL` are no text and b"" here."""

    name: str
    pieces: tuple[bytes, ...]

    @cached_property
    def vocabulary(self) -> TokenVocabulary:
        """The same for the engine's grammars."""
        control = {text: number for number, text in CONTROL.items()}
        facts = TokenFacts(
            pieces=self.pieces,
            control=control,
            end_ids=frozenset({END}),
            encode=lambda text: self._spelled(text.encode(), largest=True),
            find=control.get,
        )
        return TokenVocabulary(facts, len(self.pieces))

    def write(self, answer: Answer, *, largest: bool) -> list[int]:
        """An answer in tokens: at each place the largest, or the smallest that is there."""
        written: list[int] = []
        for part in answer:
            written += [part] if isinstance(part, int) else self._spelled(part.encode(), largest)
        return written

    def _spelled(self, text: bytes, largest: bool) -> list[int]:
        written, start = [], 0
        while start < len(text):
            ends = range(start + 1, min(len(text), start + self._longest) + 1)
            fitting = [end for end in ends if text[start:end] in self._ids]
            end = fitting[-1 if largest else 0]
            written.append(self._ids[text[start:end]])
            start = end
        return written

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {piece: at for at, piece in reversed([*enumerate(self.pieces)]) if piece}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.pieces))


def all_spellings() -> list[Spelling]:
    """One of each kind."""
    return [_sentence_piece(), _byte_level(), _word_piece()]


def _sentence_piece() -> Spelling:
    """Whole characters and words, and every byte for what is not among them."""
    texts = _texts()
    words = _cuttings(texts, "SentencePiece")
    single = [bytes([byte]) for byte in range(256)]
    characters = sorted({character.encode() for text in texts for character in text})
    return _made("SentencePiece", [*single, *characters, *(word.encode() for word in words)])


def _byte_level() -> Spelling:
    """Every byte, and merges that end in the middle of characters as often as not."""
    merges = _cuttings([text.encode().decode("latin-1") for text in _texts()], "byte-level BPE")
    single = [bytes([byte]) for byte in range(256)]
    return _made("byte-level BPE", [*single, *(merge.encode("latin-1") for merge in merges)])


def _word_piece() -> Spelling:
    """Words behind a space and the same without it; no bytes, and some spellings twice."""
    texts = _texts()
    words = {word.strip(" ") for word in _cuttings(texts, "WordPiece")} | {*"".join(texts)}
    pieces = [form.encode() for word in sorted(words) if word for form in (word, f" {word}")]
    return _made("WordPiece", [*dict.fromkeys(pieces), *pieces[:200]])


def _texts() -> list[str]:
    cases = [case for file in VERDICT_FILES for case in cases_of(file)]
    answers = [answer for case in cases for answer, _ in case.verdicts()]
    return [part[:200] for answer in answers for part in answer if isinstance(part, str)]


def _cuttings(texts: list[str], seed: str) -> list[str]:
    """Pieces of two to eight characters out of the texts."""
    random = Random(seed)
    found: dict[str, None] = {}
    while len(found) < NUM_MERGES:
        text = random.choice(texts)
        start = random.randrange(len(text) + 1)
        cutting = text[start : start + random.choice([2, 2, 2, 3, 3, 4, 5, 8])]
        if len(cutting) > 1:
            found[cutting] = None
    return list(found)


def _made(name: str, pieces: Iterable[bytes]) -> Spelling:
    todo = list(pieces)
    size = len(todo) + len(CONTROL)
    assert size > max(CONTROL)
    todo.reverse()
    return Spelling(name, tuple(b"" if at in CONTROL else todo.pop() for at in range(size)))
