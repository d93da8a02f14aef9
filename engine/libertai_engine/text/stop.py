"""Stop words: text in, text that is safe to send out, and the word that ended it.

In: pieces of text. Out: the same text cut at the first stop word, with no more held back than the
longest end that may still become one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopResult:
    """`text` may be sent now; `word` is the stop word found right behind it, if one was."""

    text: str
    word: str | None = None


class _WordScanner:
    """How much of one word the text seen so far ends with (Knuth, Morris and Pratt 1977).

    `matched` is always the length of the longest end of the text that is a start of the word;
    reading costs time proportional to the text, however long the word is.
    """

    def __init__(self, word: str) -> None:
        self.word = word
        self.matched = 0
        self._border = _borders(word)

    def read(self, text: str) -> int | None:
        """Read until the word is complete: index behind its last letter, None if it is not."""
        for index, letter in enumerate(text):
            while self.matched and self.word[self.matched] != letter:
                self.matched = self._border[self.matched - 1]
            if self.word[self.matched] == letter:
                self.matched += 1
            if self.matched == len(self.word):
                return index + 1
        return None


class StopMatcher:
    """Cuts a text at the first stop word.

    The text held back is always a proper start of a word, and the longest such end of what was
    pushed. As on llama.cpp's server a word counts as soon as a push completes it; of several
    complete ones the earliest position wins, then the order of `words`. Empty words are ignored.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._scanners = [_WordScanner(word) for word in words if word]
        self._held = ""

    def push(self, text: str) -> StopResult:
        """Take `text`; what follows a stop word is dropped. Not to be called after a match."""
        found = self._first_match(text)
        unsent = self._held + text
        if found is not None:
            position, word = found
            self._held = ""
            return StopResult(unsent[:position], word)
        keep = len(unsent) - max((scanner.matched for scanner in self._scanners), default=0)
        self._held = unsent[keep:]
        return StopResult(unsent[:keep])

    def flush(self) -> str:
        """The text held back, which no longer can become a stop word; none is held afterwards."""
        held, self._held = self._held, ""
        for scanner in self._scanners:
            scanner.matched = 0
        return held

    def _first_match(self, text: str) -> tuple[int, str] | None:
        """Position in the unsent text and word of the earliest match that `text` completes."""
        best: tuple[int, str] | None = None
        for scanner in self._scanners:
            end = scanner.read(text)
            if end is None:
                continue
            position = len(self._held) + end - len(scanner.word)
            if best is None or position < best[0]:
                best = (position, scanner.word)
        return best


def _borders(word: str) -> list[int]:
    """For each start of `word`: length of its longest proper start that is also its end."""
    borders = [0] * len(word)
    length = 0
    for index in range(1, len(word)):
        while length and word[index] != word[length]:
            length = borders[length - 1]
        if word[index] == word[length]:
            length += 1
        borders[index] = length
    return borders
