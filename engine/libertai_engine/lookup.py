"""Guesses how a text goes on from how it went on before: a draft without a draft model.

In: the tokens of a prompt and its answer. Out: the tokens that followed the latest place where the
text was most like its end (prompt lookup: answers quote their prompts, and repeat themselves).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from libertai_engine.model.images import is_image_id

MIN_MATCH = 3  # tokens that have to be the same for a place to be like the end
MAX_MATCH = 32  # more tell nothing more
MAX_PLACES = 16  # looked at, latest first


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may come next; `num_matched` tokens before them agreed with the text's end."""

    token_ids: tuple[int, ...] = ()
    num_matched: int = 0


class PromptLookup:
    """An index of one text, by its groups of `MIN_MATCH` tokens.

    Invariant: for every place but the end, `_latest` has the latest one behind a group of that
    hash, and `_earlier[place]` the one before it (-1: none). Both grow with the text and are never
    rebuilt.
    """

    def __init__(self) -> None:
        self._token_ids: list[int] = []
        self._latest: dict[int, int] = {}
        self._earlier = array("q")

    def learn(self, token_ids: Sequence[int]) -> None:
        """The text goes on with these tokens. Takes about a microsecond for each."""
        text, latest, earlier = self._token_ids, self._latest, self._earlier
        text.extend(token_ids)
        earlier.extend([-1] * (min(MIN_MATCH, len(text)) - len(earlier)))
        # NOTE: the end of the text is no place to go on from, so the newest group waits its turn.
        new = text[max(0, len(earlier) - MIN_MATCH) : -1]
        groups = zip(*(new[shift:] for shift in range(MIN_MATCH)), strict=False)
        for place, key in enumerate(map(hash, groups), len(earlier)):
            earlier.append(latest.get(key, -1))
            latest[key] = place

    def draft(self, limit: int) -> Draft:
        """At most `limit` tokens; none if the end of the text is new."""
        text = self._token_ids
        place, best, num_matched = self._find(), -1, 0
        for _ in range(MAX_PLACES):
            if place < 0:
                break
            length = self._match(place)
            if length > num_matched:
                best, num_matched = place, length
            place = self._earlier[place]
        if num_matched < MIN_MATCH:
            return Draft()
        return Draft(_continuation(text, best, limit), num_matched)

    def _find(self) -> int:
        """The latest place behind what may be the same group as the text's last one."""
        if len(self._token_ids) <= MIN_MATCH:
            return -1
        return self._latest.get(hash(tuple(self._token_ids[-MIN_MATCH:])), -1)

    def _match(self, place: int) -> int:
        """How many tokens before `place` are those at the end of the text."""
        text, end = self._token_ids, len(self._token_ids)
        length = 0
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
