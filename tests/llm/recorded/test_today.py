"""What only today's llama-server does, and what our client makes of it.

In: recordings of `llama-server` as vendored in llama-cpp-python 0.3.36. Out: its answers in our
terms.
"""

from __future__ import annotations

from typing import Any

import pytest

from libertai_llm.errors import NotSupported

pytestmark = [
    pytest.mark.vcr,
    pytest.mark.block_network,
    pytest.mark.parametrize("server", ["today"], indirect=True),
]
GREEDY: dict[str, Any] = {"temperature": 0, "repeat_penalty": 1.0, "cache_prompt": False}


def test_props_tell_model_template_and_slots(caller: Any) -> None:
    """Everything a chat client needs is there."""
    props = caller.call("props")
    assert "<|im_start|>" in props.chat_template
    assert (props.context_size, props.total_slots, props.model) == (512, 4, "demo")
    assert props.bos_token and props.eos_token


def test_health(caller: Any) -> None:
    """A server with that route says so itself."""
    health = caller.call("health")
    assert (health.is_ready, health.status) == (True, "ok")


def test_slot_is_told_at_the_end_only(caller: Any) -> None:
    """Its events carry `id_slot: -1` until the last: that is "not told", never a slot."""
    *pieces, last = caller.stream("Return the number of", max_tokens=4, **GREEDY)
    assert {piece.slot_id for piece in pieces} == {-1}
    assert last.final.slot_id >= 0


def test_counts_are_exact(caller: Any) -> None:
    """As many tokens as were asked for."""
    extra = {"return_tokens": True}
    answer = caller.complete(
        "Return the number of", max_tokens=8, ignore_eos=True, extra_body=extra, **GREEDY
    )
    assert answer.tokens_predicted == len(answer.raw["tokens"]) == 8


def test_pieces_of_a_text(caller: Any) -> None:
    """Tokens come with their bytes, whole characters or not."""
    pieces = caller.call("tokenize", "é ok", with_pieces=True)
    assert b"".join(piece.piece for piece in pieces).decode().strip() == "é ok"


def test_infill_without_such_tokens_is_not_supported(caller: Any) -> None:
    """A model without fill-in-the-middle tokens is a 501, in the server's words."""
    with pytest.raises(NotSupported, match="prefix token is missing"):
        caller.call("infill", "def f(", "):", max_tokens=6)
