"""Drafts are what followed the most similar earlier place, whatever pieces the text came in."""

from __future__ import annotations

import random

import pytest

from libertai_engine.lookup import GROUPS, MAX_MATCH, MAX_PLACES, Draft, PromptLookup
from libertai_engine.model.images import FIRST_IMAGE_ID


def lookup_of(token_ids: list[int]) -> PromptLookup:
    lookup = PromptLookup()
    lookup.learn(token_ids)
    return lookup


def searched(text: list[int], limit: int) -> tuple[int, ...]:
    """The same without an index: looks at every place."""
    best, longest = -1, 0
    for size in GROUPS:
        places = [
            place
            for place in range(len(text) - 1, size - 1, -1)
            if text[place - size : place] == text[-size:]
        ]
        for place in places[:MAX_PLACES]:
            length = 0
            while length < min(MAX_MATCH, place) and text[place - 1 - length] == text[-1 - length]:
                length += 1
            if length > longest:
                best, longest = place, length
        if longest:
            return tuple((text[best:] * limit)[:limit])
    return ()


@pytest.mark.parametrize("seed", range(40))
def test_an_index_that_grows_finds_what_a_search_finds(seed: int) -> None:
    """Random texts of few tokens, learned in random pieces, the empty one among them."""
    dice = random.Random(seed)
    lookup, text = PromptLookup(), list[int]()
    while len(text) < 150:
        piece = [dice.randrange(2 + seed % 3) for _ in range(dice.choice((0, 1, 1, 2, 9)))]
        lookup.learn(piece)
        text += piece
        assert lookup.draft(8).token_ids == searched(text, 8)


def test_the_longest_match_wins_then_the_latest() -> None:
    """Three places end alike: one agrees in four tokens, two in three."""
    lookup = lookup_of([1, 2, 3, 4, 70, 9, 2, 3, 4, 80, 8, 2, 3, 4, 90, 1, 2, 3, 4])
    assert lookup.draft(1) == Draft((70,), 4)
    assert lookup_of([9, 2, 3, 4, 80, 8, 2, 3, 4, 90, 7, 2, 3, 4]).draft(2) == Draft((90, 7), 3)


def test_a_text_that_goes_round_is_drafted_round() -> None:
    """A draft may be longer than what is between the two places."""
    assert lookup_of([5, 6] * 4).draft(7).token_ids == (5, 6, 5, 6, 5, 6, 5)
    assert lookup_of([5] * 4).draft(3).token_ids == (5, 5, 5)


def test_one_token_will_do_where_no_three_agree() -> None:
    """The latest of the places that agree in most tokens, be it one."""
    assert lookup_of([4, 5, 6, 7, 8, 5, 9, 5]).draft(2) == Draft((9, 5), 1)
    assert lookup_of([4, 5, 6, 7, 8, 5, 9, 4, 5]).draft(2) == Draft((6, 7), 2)


@pytest.mark.parametrize("text", [[], [1], [1, 2], [1, 2, 3, 4, 5, 6, 7]])
def test_new_text_has_no_draft(text: list[int]) -> None:
    """Too short, or never seen."""
    assert lookup_of(text).draft(5) == Draft()


def test_images_are_not_drafted() -> None:
    """A draft ends where an image stood."""
    text = [1, 2, 3, 7, FIRST_IMAGE_ID + 5, 8, 1, 2, 3]
    assert lookup_of(text).draft(5).token_ids == (7,)
