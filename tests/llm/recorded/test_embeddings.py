"""Embeddings of real servers: how each is asked, and what comes of its answers.

In: recordings of the server of December 2023 and of today's, with embeddings switched on and off.
Out: vectors, or an error that says what to do.
"""

from __future__ import annotations

from typing import Any

import pytest

from libertai_llm.errors import ContextWindowExceeded, InvalidReply, NotSupported

pytestmark = [pytest.mark.vcr, pytest.mark.block_network]
old = pytest.mark.parametrize("server", ["dec2023-embedding"], indirect=True)
new = pytest.mark.parametrize("server", ["today-embedding"], indirect=True)
both = pytest.mark.parametrize("server", ["dec2023-embedding", "today-embedding"], indirect=True)
TEXTS = ["The capital of France", "a b c", "The capital of Spain"]


@both
def test_each_text_gets_a_vector(caller: Any) -> None:
    """One by one from a server of 2023, which an array breaks; in one request from today's."""
    vectors = caller.call("embed", TEXTS)
    assert len(vectors) == len(TEXTS)
    assert len({len(vector) for vector in vectors}) == 1 and len(vectors[0]) > 16
    assert vectors[0] != vectors[1]


@both
def test_a_single_text_asks_nothing_else(caller: Any) -> None:
    """No look at the props before it; the same text, the same vector (nearly: 2023's rounds)."""
    (first,) = caller.call("embed", TEXTS[:1])
    (second,) = caller.call("embed", TEXTS[:1])
    assert first == pytest.approx(second, abs=1e-3)


@old
def test_a_text_without_tokens(caller: Any) -> None:
    """That server answers with a completion of nothing."""
    with pytest.raises(InvalidReply, match="has the text any token"):
        caller.call("embed", [""])


@pytest.mark.parametrize("server", ["dec2023"], indirect=True)
def test_zeros_are_no_embedding(caller: Any) -> None:
    """What a server of 2023 answers without `--embedding`, with status 200."""
    with pytest.raises(NotSupported, match="needs `--embedding`"):
        caller.call("embed", TEXTS[:1])


@pytest.mark.parametrize("server", ["today"], indirect=True)
def test_today_says_that_it_does_not_embed(caller: Any) -> None:
    """501, which is not asked again."""
    with pytest.raises(NotSupported, match="--embeddings"):
        caller.call("embed", TEXTS[:1])


@new
def test_a_text_that_is_too_long(caller: Any) -> None:
    """That server calls it a failure of its own (500); asking again would not help."""
    with pytest.raises(ContextWindowExceeded) as caught:
        caller.call("embed", ["word " * 900])
    assert (caught.value.n_prompt_tokens, caught.value.n_ctx) == (902, 512)
