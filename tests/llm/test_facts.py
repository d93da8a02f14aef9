"""What servers tell of slots and models, in their own words."""

from __future__ import annotations

from typing import Any

import pytest

from libertai_llm.errors import InvalidReply, NotFound
from libertai_llm.facts import ErasedSlot, ModelInfo, SlotFile, SlotState, models_of, slots_of
from tests.llm.conftest import MakeClient, Serve
from tests.llm.scripted_server import whole

SAVED = {"id_slot": 0, "filename": "f", "n_saved": 7, "n_written": 99, "timings": {"save_ms": 1.5}}
READ = {"id_slot": 0, "filename": "f", "n_restored": 7, "n_read": 99, "timings": {"restore_ms": 2}}


def test_slot_files() -> None:
    """Both directions read alike; time is optional, counts are not."""
    assert SlotFile.from_wire(SAVED) == SlotFile(
        slot_id=0, filename="f", num_tokens=7, num_bytes=99, milliseconds=1.5
    )
    assert SlotFile.from_wire(READ).num_tokens == 7
    assert SlotFile.from_wire({**READ, "timings": None}).milliseconds is None
    assert ErasedSlot.from_wire({"id_slot": 2, "n_erased": 0}).num_tokens == 0


@pytest.mark.parametrize("reply", [{}, {"id_slot": 0}, {**SAVED, "n_saved": "7"}, {"content": "x"}])
def test_other_answers_are_no_slot_files(reply: dict[str, Any]) -> None:
    """A gateway's own page, for example."""
    with pytest.raises(InvalidReply):
        SlotFile.from_wire(reply)
    with pytest.raises(InvalidReply):
        ErasedSlot.from_wire(reply)


def test_slots_of_both_servers() -> None:
    """Ours counts its tokens as `n_past`, today's as `n_prompt_tokens`, once it was used."""
    ours = {"id": 0, "is_processing": True, "n_ctx": 64, "n_past": 9, "n_prompt_tokens": 5}
    today = {"id": 1, "n_ctx": 64, "is_processing": False, "n_prompt_tokens": 8, "params": {}}
    unused = {"id": 2, "n_ctx": 64, "is_processing": False}
    found = slots_of([ours, today, unused])
    assert [each.num_tokens for each in found] == [9, 8, None]
    assert [each.is_processing for each in found] == [True, False, False]
    assert found[1] == SlotState(
        slot_id=1, is_processing=False, context_size=64, num_tokens=8, raw=today
    )


def test_models_of_each_generation() -> None:
    """2023 tells a name and little else."""
    old = {"created": 1, "id": "m", "object": "model", "owned_by": "llamacpp"}
    assert ModelInfo.from_wire(old) == ModelInfo(id="m", owned_by="llamacpp", created=1, raw=old)
    meta = {"n_ctx_train": 4096, "n_params": 10, "n_ctx": 512, "vocab_type": 2}
    (new,) = models_of({"object": "list", "data": [{**old, "meta": meta}], "models": []})
    assert (new.train_context_size, new.num_parameters, new.context_size) == (4096, 10, 512)


@pytest.mark.parametrize("reply", [{}, {"data": None}, {"data": [5]}, {"data": [{"id": None}]}])
def test_other_answers_are_no_models(reply: dict[str, Any]) -> None:
    """They are not passed on half understood."""
    with pytest.raises(InvalidReply):
        models_of(reply)


@pytest.mark.parametrize("reply", [{}, "slots", [5], [{"id": "0"}], [None]])
def test_other_answers_are_no_slots(any_client: MakeClient, serve: Serve, reply: Any) -> None:
    """An object, a text, or a list of something else."""
    server = serve(lambda asked: [whole(reply)])
    with pytest.raises(InvalidReply):
        any_client(server.url).slots()
    with pytest.raises(InvalidReply):
        slots_of(reply)


def test_routes_that_a_server_lacks(any_client: MakeClient, serve: Serve) -> None:
    """Each says so; the action travels in the address, the file in the body."""
    server = serve(lambda asked: [whole({"error": {"message": "no such route"}}, 404)])
    client = any_client(server.url)
    for call in (
        client.slots,
        client.models,
        lambda: client.save_slot(3, "a file"),
        lambda: client.restore_slot(3, "a file"),
        lambda: client.erase_slot(3),
    ):
        with pytest.raises(NotFound):
            call()
    assert [asked.path for asked in server.asked] == [
        "/slots", "/v1/models", "/slots/3?action=save", "/slots/3?action=restore",
        "/slots/3?action=erase",
    ]  # fmt: skip
    assert [asked.json for asked in server.asked[2:]] == [{"filename": "a file"}] * 2 + [{}]
