"""What real servers answer when something is wrong, as exceptions of one tree.

In: recordings of refusals by both generations. Out: the exception class, status and words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from libertai_llm.errors import (
    AuthenticationError,
    ContextWindowExceeded,
    NotFound,
    SlotUnavailable,
)

pytestmark = [pytest.mark.vcr, pytest.mark.block_network]
both = pytest.mark.parametrize("server", ["dec2023", "today"], indirect=True)
keyed = pytest.mark.parametrize("server", ["dec2023-key", "today-key"], indirect=True)
old_keyed = pytest.mark.parametrize("server", ["dec2023-key"], indirect=True)
today = pytest.mark.parametrize("server", ["today"], indirect=True)


@keyed
def test_right_key_is_let_in(caller: Any) -> None:
    """The key goes as a Bearer token, streamed or not."""
    assert caller.complete("Return", max_tokens=4, temperature=0).content
    assert caller.stream("Return", max_tokens=4, temperature=0)[-1].final is not None


@keyed
@pytest.mark.parametrize("form", ["whole", "stream"])
def test_wrong_key_is_refused(connect: Callable[..., Any], form: str) -> None:
    """A wrong key is a 401 before anything else, in plain text there and in JSON here."""
    caller = connect(api_key="wrong")
    ask = caller.stream if form == "stream" else caller.complete
    with pytest.raises(AuthenticationError) as caught:
        ask("Return", max_tokens=4)
    assert caught.value.status == 401
    assert "wrong" not in repr(caught.value)


@keyed
def test_missing_key_is_refused(connect: Callable[..., Any]) -> None:
    """No key is the same 401."""
    with pytest.raises(AuthenticationError):
        connect(api_key=None).complete("Return", max_tokens=4)


@both
def test_wrong_path_is_not_found(server: Any, connect: Callable[..., Any]) -> None:
    """An address with a path too many is a 404."""
    caller = connect(base_url=server.url + "/nowhere")
    with pytest.raises(NotFound):
        caller.call("tokenize", "x")


@old_keyed
@pytest.mark.parametrize("form", ["whole", "stream"])
def test_busy_server_of_2023_has_no_queue(
    server: Any, connect: Callable[..., Any], form: str
) -> None:
    """Its only slot taken, it answers 404 (an `error:` line in a stream): slot unavailable."""
    caller = connect(max_retries=0)
    ask = caller.stream if form == "stream" else caller.complete
    with server.occupied(1), pytest.raises(SlotUnavailable) as caught:
        ask("Return", max_tokens=4)
    assert caught.value.is_retryable


@old_keyed
@pytest.mark.parametrize("form", ["whole", "stream"])
def test_busy_server_of_2023_is_asked_again(caller: Any, server: Any, vcr: Any, form: str) -> None:
    """The slot becomes free during the pause between two attempts: the caller sees an answer."""
    ask = caller.stream if form == "stream" else caller.complete
    with server.occupied(1, seconds=0.3):
        assert ask("Return", max_tokens=4)
    assert len(vcr) > 1


@today
def test_too_long_a_prompt_names_both_sizes(caller: Any) -> None:
    """Today's server refuses what does not fit, and says how much it was and how much fits."""
    with pytest.raises(ContextWindowExceeded) as caught:
        caller.complete("word " * 700, max_tokens=4)
    assert caught.value.n_prompt_tokens > caught.value.n_ctx == 512
