"""Stop words: where the text is cut, and how little is held back."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from libertai_engine.text.stop import StopMatcher, StopResult


def feed(words: list[str], pieces: list[str]) -> tuple[list[str], str | None]:
    """Texts sent, piece by piece, the flush last; and the stop word."""
    matcher = StopMatcher(words)
    sent = []
    for piece in pieces:
        result = matcher.push(piece)
        sent.append(result.text)
        if result.word is not None:
            return sent, result.word
    return [*sent, matcher.flush()], None


@pytest.mark.parametrize(
    ("words", "pieces", "sent", "word"),
    [
        (["\n"], ["a", " b\nc"], ["a", " b"], "\n"),
        (["User:"], ["hi ", "Us", "er", ": x"], ["hi ", "", "", ""], "User:"),
        # only the end that may become a word is held, and sent as soon as it cannot
        (["User:"], ["hi Us", "ual"], ["hi ", "Usual", ""], None),
        (["User:"], ["hi Us"], ["hi ", "Us"], None),
        # the earliest position wins, at one position the first word
        (["cd", "b"], ["abcd"], ["a"], "b"),
        (["bcd", "b"], ["abcd"], ["a"], "bcd"),
        (["b", "bcd"], ["abcd"], ["a"], "b"),
        # a word counts as soon as it is there, even inside another that might follow
        (["bcd", "c"], ["a", "b", "c", "d"], ["a", "", "b"], "c"),
        (["bcd", "c"], ["a", "bcd"], ["a", ""], "bcd"),
        # a word that overlaps itself
        (["aab"], ["a", "a", "a", "b"], ["", "", "a", ""], "aab"),
        ([""], ["abc"], ["abc", ""], None),
        ([], ["abc"], ["abc", ""], None),
    ],
)
def test_text_is_cut_and_held_as_documented(
    words: list[str], pieces: list[str], sent: list[str], word: str | None
) -> None:
    """One line per rule."""
    assert feed(words, pieces) == (sent, word)


def test_a_match_drops_what_follows() -> None:
    """Nothing behind the stop word ever comes out."""
    matcher = StopMatcher(["stop"])
    assert matcher.push("go stop go") == StopResult("go ", "stop")
    assert matcher.flush() == ""


letters = st.sampled_from("aab")
some_words = st.lists(st.text(letters, min_size=1, max_size=5), max_size=4)
some_pieces = st.lists(st.text(letters, max_size=4), max_size=12)


@settings(deadline=None, max_examples=300)
@given(some_words, some_pieces)
def test_the_cut_is_at_the_first_word_of_the_text_so_far(
    words: list[str], pieces: list[str]
) -> None:
    """As soon as the text so far has a stop word it ends before the earliest of them."""
    text = ""
    expected: tuple[str, str | None] | None = None
    for piece in pieces:
        text += piece
        found = [(text.find(word), place) for place, word in enumerate(words) if word in text]
        if found:
            position, place = min(found)
            expected = text[:position], words[place]
            break
    sent, word = feed(words, pieces)
    assert ("".join(sent), word) == (expected or (text, None))


@settings(deadline=None, max_examples=300)
@given(some_words, some_pieces)
def test_chunks_do_not_matter(words: list[str], pieces: list[str]) -> None:
    """Unless a word lies inside another, the text is cut where the whole text would be."""
    assume(not any(inner in outer[1:-1] for inner in words for outer in words))
    whole = "".join(pieces)
    positions = [whole.find(word) for word in words if word in whole]
    sent, _ = feed(words, pieces)
    assert "".join(sent) == whole[: min(positions, default=len(whole))]


@settings(deadline=None, max_examples=300)
@given(some_words, some_pieces)
def test_nothing_is_held_that_could_be_sent(words: list[str], pieces: list[str]) -> None:
    """Unsent text is the longest end of the text that begins a word."""
    matcher = StopMatcher(words)
    text, sent = "", ""
    for piece in pieces:
        result = matcher.push(piece)
        if result.word is not None:
            return
        text += piece
        sent += result.text
        starts = {word[:length] for word in words for length in range(1, len(word))}
        longest = max((len(start) for start in starts if text.endswith(start)), default=0)
        assert sent == text[: len(text) - longest]
