"""Slots, models, several prompts and the system prompt: alike in this process and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_engine.wire.parse import Limits, parse_completion
from libertai_llm import Completion, Timeouts, errors
from libertai_llm.params import OPTION_NAMES, RESERVED
from libertai_llm.types import Timings
from tests.engine.serving import Running, running
from tests.fakes import save_tiny_model
from tests.llm.conftest import MakeClient

GREEDY: dict[str, Any] = {"max_tokens": 6, "temperature": 0}


@pytest.fixture(scope="module")
def engine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    config = EngineConfig(
        model=str(tiny_model), num_slots=2, slot_folder=tmp_path_factory.mktemp("slots")
    )
    with load_engine(config, progress=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[Running]:
    with running(CompletionAPI(engine), has_slots=True) as server:
        yield server


@pytest.fixture(params=["engine", "engine with limits", "http"])
def client(
    request: pytest.FixtureRequest, any_client: MakeClient, engine: Engine, server: Running
) -> Any:
    """Either client, on the same engine, by all three ways."""
    if request.param == "http":
        return any_client(server.url)
    limits = Timeouts(first_token=60, between_tokens=60, total=120)
    return any_client(engine=engine, timeouts=limits if "limits" in request.param else None)


def timeless(answer: Completion) -> Completion:
    """Without what differs from run to run: times, the slot, what was reused, the raw object."""
    return replace(
        answer, timings=Timings(), slot_id=0, tokens_cached=0, generation_settings={}, raw={}
    )


def test_several_prompts(client: Any) -> None:
    """The answers of single calls, in the order of the prompts, ids among the texts or not."""
    ids = client.tokenize("Two")
    prompts: list[Any] = ["Once upon a time", ids, "The", "A cat", ["An ", *ids]]
    single = [client.complete(each, cache_prompt=False, **GREEDY) for each in prompts]
    together = client.complete_many(prompts, cache_prompt=False, **GREEDY)
    assert [timeless(each) for each in together] == [timeless(each) for each in single]
    assert len({each.content for each in together}) > 1
    assert client.complete_many([], **GREEDY) == []


def test_more_prompts_than_fit_into_a_request(client: Any) -> None:
    """They are asked for in groups."""
    prompts = [f"Number {number} is" for number in range(35)]
    answers = client.complete_many(prompts, max_tokens=1, temperature=0)
    assert [each.raw["prompt"] for each in answers] == prompts


def test_wrong_prompts_among_several(client: Any, engine: Engine) -> None:
    """What is no prompt is found before anything is sent; one that is too long raises for all."""
    for bad in ("a text", 5, None, ["a", 5], ["a", ["b", "c"]]):
        with pytest.raises(errors.InvalidOption, match="prompt"):
            client.complete_many(bad, **GREEDY)
    with pytest.raises(errors.ContextWindowExceeded) as caught:
        client.complete_many(["short", "word " * engine.context_size], **GREEDY)
    assert caught.value.n_ctx == engine.context_size
    with pytest.raises(errors.BadRequest, match="logit_bias"):
        client.complete_many(["a", "b"], **GREEDY, logit_bias=[[1, 1]] * 5000)


def test_a_slot_outlives_its_erasure_in_a_file(client: Any, engine: Engine) -> None:
    """Saved, erased and restored, a slot continues where it was; every step says how much."""
    text = "Whatever happens to this slot, its file knows these words."
    first = client.complete(text, slot_id=1, **GREEDY)
    in_slot = first.tokens_evaluated + first.tokens_predicted - 1
    saved = client.save_slot(1, "words.bin")
    assert (saved.slot_id, saved.filename, saved.num_tokens) == (1, "words.bin", in_slot)
    assert engine.config.slot_folder is not None
    assert saved.num_bytes == (engine.config.slot_folder / "words.bin").stat().st_size
    assert saved.milliseconds is not None and saved.milliseconds > 0
    erased = client.erase_slot(1)
    assert (erased.slot_id, erased.num_tokens) == (1, in_slot)
    assert [each.num_tokens for each in client.slots() if each.slot_id == 1] == [0]
    restored = client.restore_slot(0, "words.bin")
    assert (restored.slot_id, restored.num_tokens) == (0, in_slot)
    assert restored.num_bytes == saved.num_bytes
    again = client.complete(text, slot_id=0, **GREEDY)
    assert again.content == first.content
    assert again.tokens_cached == first.tokens_evaluated - 1


def test_refused_slot_actions(client: Any, engine: Engine, tmp_path: Path) -> None:
    """A slot, file or name that is none; values that could not be sent do not leave the client."""
    for call in (client.save_slot, client.restore_slot):
        with pytest.raises(errors.BadRequest, match="slot"):
            call(9, "x")
        with pytest.raises(errors.BadRequest, match="filename"):
            call(0, "../x")
        for bad in ((-1, "x"), ("0", "x"), (True, "x"), (0, 5)):
            with pytest.raises(errors.InvalidOption):
                call(*bad)
    with pytest.raises(errors.BadRequest, match="restore slot"):
        client.restore_slot(0, "missing")
    with pytest.raises(errors.BadRequest):
        client.erase_slot(9)


def test_a_server_that_saves_no_slots(
    any_client: MakeClient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Without a folder there is nothing to save to; a server may also keep its slots to itself."""
    folder = save_tiny_model(tmp_path_factory.mktemp("plain"))
    with (
        load_engine(EngineConfig(model=str(folder), num_slots=1), progress=False) as plain,
        running(CompletionAPI(plain)) as server,
    ):
        over_http = any_client(server.url)
        for client in (over_http, any_client(engine=plain)):
            with pytest.raises(errors.NotSupported, match="folder"):
                client.save_slot(0, "x")
        with pytest.raises(errors.NotSupported, match="--slots"):
            over_http.slots()


def test_the_slots(client: Any, engine: Engine) -> None:
    """Each with its size and what is in it; never a text."""
    answer = client.complete("How much is in this slot?", slot_id=0, **GREEDY)
    slots = client.slots()
    assert [(each.slot_id, each.is_processing) for each in slots] == [(0, False), (1, False)]
    assert {each.context_size for each in slots} == {engine.context_size}
    assert slots[0].num_tokens == answer.tokens_evaluated + answer.tokens_predicted - 1
    assert not any(isinstance(value, str) for each in slots for value in each.raw.values())


def test_every_field_that_the_engine_reads_is_an_option(engine: Engine) -> None:
    """Whatever may be in a body of ours has a name and a check in the client."""
    read: set[str] = set()

    class Spy(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            read.add(name)
            return super().get(name, default)

    limits = Limits(num_slots=2, context_size=64)
    parse_completion(Spy(prompt="x"), engine.tokenizer, limits)
    assert {"temperature", "n_predict", "stop", "slot_id", "system_prompt"} <= read
    assert read - RESERVED <= OPTION_NAMES.keys()


def test_the_models(client: Any, engine: Engine) -> None:
    """The one there is, with its sizes."""
    (model,) = client.models()
    assert (model.id, model.owned_by) == (engine.name, "llamacpp")
    assert model.context_size == engine.context_size
    assert engine.model is not None
    assert model.train_context_size == engine.model.train_context
    assert model.num_parameters == engine.model.num_parameters


def test_one_system_prompt_for_all(client: Any) -> None:
    """Set beside an empty prompt; later prompts begin with it until it is taken away."""
    system, prompt = "The sun rose over the hills.", " and"
    before = client.complete(prompt, **GREEDY)
    names = {"prompt": system, "assistant_name": "Bot", "anti_prompt": "User:"}
    number = client.complete("", system_prompt=names, **GREEDY).tokens_evaluated
    try:
        assert number == len(client.tokenize(system, add_special=True))
        after = client.complete(prompt, **GREEDY)
        assert after.tokens_evaluated == number + len(client.tokenize(prompt))
        assert client.props().raw["assistant_name"] == "Bot"
    finally:
        client.complete("x", system_prompt={"prompt": ""}, max_tokens=0)
    assert timeless(client.complete(prompt, **GREEDY)) == timeless(before)
    with pytest.raises(errors.BadRequest, match="system_prompt"):
        client.complete("x", system_prompt={"prompt": "word " * 400})


def test_a_system_prompt_is_the_owners(any_client: MakeClient, engine: Engine) -> None:
    """A server that does not let everybody set it says so."""
    with (
        running(CompletionAPI(engine, may_set_system_prompt=False)) as server,
        pytest.raises(errors.PermissionDenied, match="system_prompt"),
    ):
        any_client(server.url).complete("x", system_prompt={"prompt": "Be kind."})
