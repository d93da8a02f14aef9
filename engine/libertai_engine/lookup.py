"""Guesses how a text goes on from how it went on before: a draft without a draft model.

In: the tokens of a prompt and its answer. Out: the tokens that followed the latest place where the
text was most like its end (prompt lookup: answers quote their prompts, and repeat themselves).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from libertai_engine.model.images import is_image_id

# Tokens that have to be the same for a place to be looked at: three, and if there is no such place,
# one. With one alone, the latest places of a frequent token would hide those that are more alike.
GROUPS = (3, 1)
MAX_MATCH = 32  # more tokens tell nothing more
MAX_PLACES = 16  # looked at, latest first


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may come next; `num_matched` tokens before them agreed with the text's end."""

    token_ids: tuple[int, ...] = ()
    num_matched: int = 0


class _Index:
    """The places of one text, by the `size` tokens before them.

    Invariant: for every place but the end, `_latest` has the latest one behind a group of that
    hash, and `_earlier[place]` the one before it (-1: none). Both grow with the text and are never
    rebuilt.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._latest: dict[int, int] = {}
        self._earlier = array("q")

    def learn(self, text: list[int]) -> None:
        """The text has grown to this."""
        size, latest, earlier = self._size, self._latest, self._earlier
        earlier.extend([-1] * (min(size, len(text)) - len(earlier)))
        # NOTE: the end of the text is no place to go on from, so the newest group waits its turn.
        new = text[max(0, len(earlier) - size) : -1]
        groups = zip(*(new[shift:] for shift in range(size)), strict=False)
        for place, key in enumerate(map(hash, groups), len(earlier)):
            earlier.append(latest.get(key, -1))
            latest[key] = place

    def places(self, text: list[int]) -> Iterator[int]:
        """Where the same group may be before as at the end of the text, latest first."""
        place = self._latest.get(hash(tuple(text[-self._size :])), -1)
        while place >= 0:
            yield place
            place = self._earlier[place]

    def find(self, text: list[int]) -> tuple[int, int]:
        """The place that agrees in most tokens, and how many; (-1, 0) if there is none."""
        best, longest = -1, 0
        for place in islice(self.places(text), MAX_PLACES):
            length = _match(text, place)
            if length > longest:
                best, longest = place, length
        return (best, longest) if longest >= self._size else (-1, 0)


class PromptLookup:
    """One text that grows, and drafts of how it goes on. Invariant: all of it is indexed."""

    def __init__(self) -> None:
        self._text: list[int] = []
        self._indexes = [_Index(size) for size in GROUPS]

    def learn(self, token_ids: Sequence[int]) -> None:
        """The text goes on with these tokens. Takes about half a microsecond for each."""
        self._text.extend(token_ids)
        for index in self._indexes:
            index.learn(self._text)

    def draft(self, limit: int) -> Draft:
        """At most `limit` tokens; none if the end of the text is new."""
        for index in self._indexes:
            place, num_matched = index.find(self._text)
            if num_matched:
                return Draft(_continuation(self._text, place, limit), num_matched)
        return Draft()


def _match(text: list[int], place: int) -> int:
    """How many tokens before `place` are those at the end of the text."""
    end, length = len(text), 0
    while length < min(MAX_MATCH, place) and text[place - 1 - length] == text[end - 1 - length]:
        length += 1
    return length


def _continuation(text: list[int], place: int, limit: int) -> tuple[int, ...]:
    """What follows `place`; where the text ends, it goes round, as a text that repeats would."""
    period = len(text) - place
    found = [text[place + step % period] for step in range(limit)]
    for step, token_id in enumerate(found):
        if is_image_id(token_id):
            return tuple(found[:step])
    return tuple(found)
