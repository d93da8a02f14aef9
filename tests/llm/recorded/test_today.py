"""What only today's llama-server does, and what our client makes of it.

In: recordings of `llama-server` as vendored in llama-cpp-python 0.3.36. Out: its answers in our
terms.
"""

from __future__ import annotations

from typing import Any

import pytest

from libertai_llm.errors import BadRequest, NotSupported

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
    answer = caller.complete(
        "Return the number of", max_tokens=8, ignore_eos=True, return_tokens=True, **GREEDY
    )
    assert answer.tokens_predicted == len(answer.tokens) == 8


def test_pieces_of_a_text(caller: Any) -> None:
    """Tokens come with their bytes, whole characters or not."""
    pieces = caller.call("tokenize", "é ok", with_pieces=True)
    assert b"".join(piece.piece for piece in pieces).decode().strip() == "é ok"


def test_a_slot_is_saved_erased_and_restored(caller: Any) -> None:
    """Its file brings back what was in it, in another slot."""
    text = "Nobody has said these words before."
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "ignore_eos": True}
    first = caller.complete(text, slot_id=1, **options)
    saved = caller.call("save_slot", 1, "words.bin")
    assert (saved.slot_id, saved.filename) == (1, "words.bin")
    assert saved.num_tokens == first.tokens_evaluated + first.tokens_predicted - 1
    assert saved.num_bytes > 0 and saved.milliseconds is not None
    assert caller.call("erase_slot", 1).num_tokens == saved.num_tokens
    assert caller.call("restore_slot", 2, "words.bin").num_tokens == saved.num_tokens
    again = caller.complete(text, slot_id=2, **options)
    assert again.content == first.content
    assert again.tokens_cached == first.tokens_evaluated - 1
    slots = caller.call("slots")
    assert [slot.slot_id for slot in slots] == [0, 1, 2, 3]
    assert {slot.context_size for slot in slots} == {512}
    assert slots[2].num_tokens == saved.num_tokens
    assert not any(slot.is_processing for slot in slots)
    with pytest.raises(BadRequest):
        caller.call("restore_slot", 0, "missing.bin")


def test_infill_without_such_tokens_is_not_supported(caller: Any) -> None:
    """A model without fill-in-the-middle tokens is a 501, in the server's words."""
    with pytest.raises(NotSupported, match="prefix token is missing"):
        caller.call("infill", "def f(", "):", max_tokens=6)
