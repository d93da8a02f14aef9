"""Tokens to text, one at a time: whole characters only, and nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libertai_engine.text.detokenizer import Detokenizer


class Pieces:
    """A vocabulary given as bytes: token i is `pieces[i]`."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of one token."""
        return self.pieces[token_id]


def pushed(pieces: list[bytes]) -> list[str]:
    """The text each piece in turn brings, and the flushed rest."""
    detokenizer = Detokenizer(Pieces(pieces))
    return [*(detokenizer.push(token) for token in range(len(pieces))), detokenizer.flush()]


@pytest.mark.parametrize(
    ("pieces", "texts"),
    [
        ([b"a", b" b"], ["a", " b", ""]),
        ([b"\xc3", b"\xa9!"], ["", "é!", ""]),
        ([b"x\xf0\x9f", b"\x98", b"\x80y"], ["x", "", "😀y", ""]),
        # the next byte shows that the character was broken: it need not be held any longer
        ([b"\xe2\x82", b"a"], ["", "\ufffda", ""]),
        ([b"\xff", b"a"], ["\ufffd", "a", ""]),
        ([b"a", b"\xe2\x82"], ["a", "", "\ufffd"]),
        ([b"", b""], ["", "", ""]),
    ],
)
def test_text_comes_as_soon_as_it_is_whole(pieces: list[bytes], texts: list[str]) -> None:
    """And the end shows what never became a character."""
    assert pushed(pieces) == texts


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=4),
            st.text(st.characters(codec="utf-8"), max_size=3).map(str.encode),
        )
    )
)
def test_all_pushes_and_the_flush_are_the_text(pieces: list[bytes]) -> None:
    """Any bytes, cut anywhere."""
    assert "".join(pushed(pieces)) == b"".join(pieces).decode("utf-8", errors="replace")


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8")), st.integers(1, 3))
def test_at_most_one_unfinished_character_is_held(text: str, size: int) -> None:
    """After each push what has come is every whole character so far, `pending` the rest."""
    data = text.encode()
    detokenizer = Detokenizer(Pieces([data[at : at + size] for at in range(0, len(data), size)]))
    sent = ""
    for token in range((len(data) + size - 1) // size):
        sent += detokenizer.push(token)
        so_far = data[: (token + 1) * size]
        assert sent == so_far.decode("utf-8", errors="ignore")
        assert detokenizer.pending == (len(sent.encode()) < len(so_far))


def test_a_flush_makes_it_new() -> None:
    """Bytes flushed do not come again."""
    detokenizer = Detokenizer(Pieces([b"\xc3", b"\xa9"]))
    detokenizer.push(0)
    assert detokenizer.flush() == "\ufffd"
    assert not detokenizer.pending
    assert detokenizer.push(1) == "\ufffd"
