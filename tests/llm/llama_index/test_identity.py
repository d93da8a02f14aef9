"""Group 1: what a model is, and what is written down of it."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import httpx
import pytest
import requests
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.llms import ChatMessage
from pydantic import ValidationError

from libertai_engine.engine import Engine
from libertai_llm.errors import LibertaiError
from libertai_llm.llama_index import Libertai
from libertai_llm.params import CompletionParams
from libertai_llm.timeouts import Timeouts
from tests.llm.langchain.scripted import ScriptedServer
from tests.llm.llama_index.conftest import MakeLLM

NOWHERE = "http://127.0.0.1:9"
SECRET = "sk-do-not-tell"
SETTINGS: dict[str, Any] = {
    "base_url": NOWHERE,
    "temperature": 0.25,
    "max_tokens": 7,
    "stop": ["a", "b"],
    "logit_bias": {17: -1.5, "word": False},
    "timeout": Timeouts(total=3),
    "context_window": 2048,
    "system_prompt": "Be brief.",
    "extra_body": {"lora": 1},
    "thread_id": "anna",
}


def wire_of(llm: Libertai) -> dict[str, Any]:
    """What a call of this model sends."""
    return CompletionParams.from_options(llm._call({}).options).to_wire()


def hello() -> list[ChatMessage]:
    return [ChatMessage("Hello!")]


def test_it_is_an_llm(make_llm: MakeLLM) -> None:
    """LlamaIndex takes it for one of its own."""
    llm = make_llm()
    assert isinstance(llm, BaseLLM)
    assert "BaseLLM" in [base.__name__ for base in type(llm).__mro__]
    assert type(llm).class_name() == "Libertai_llm"


def test_settings_survive_being_written_down() -> None:
    """As a dict and as JSON, everything but secrets comes back."""
    llm = Libertai(**SETTINGS, api_key=SECRET, default_headers={"X-Token": SECRET})
    written = llm.to_json()
    assert SECRET not in written + repr(llm) + str(llm.to_payload())
    assert json.loads(written)["class_name"] == "Libertai_llm"
    for twin in (Libertai.from_json(written), Libertai.from_dict(llm.to_dict())):
        assert twin.to_dict() == llm.to_dict()
        assert wire_of(twin) == wire_of(llm)


def test_payload_names_model_and_temperature(make_llm: MakeLLM) -> None:
    """What traces are told: what was asked, not how one gets in."""
    payload = make_llm(model="one", temperature=0.5).to_payload()
    assert payload["model"] == payload["model_name"] == "one"
    assert payload["temperature"] == 0.5
    assert payload["class_name"] == "Libertai_llm"


def test_metadata_needs_no_server() -> None:
    """It is read many times a call, so it must not wait or fail."""
    metadata = Libertai(base_url=NOWHERE, max_tokens=-1).metadata
    assert (metadata.context_window, metadata.num_output) == (3900, 256)
    assert metadata.is_chat_model
    assert Libertai(base_url=NOWHERE, context_window=99).metadata.context_window == 99
    assert Libertai(base_url=NOWHERE, max_tokens=5).metadata.num_output == 5
    assert not Libertai(base_url=NOWHERE, is_chat_model=False).metadata.is_chat_model


def test_metadata_tells_the_context_once_it_is_known(make_llm: MakeLLM, engine: Engine) -> None:
    """After `learn`, or the first chat, it is the model's own."""
    assert make_llm().learn().metadata.context_window == engine.context_size
    llm = make_llm()
    llm.chat(hello())
    assert llm.metadata.context_window == engine.context_size


async def test_context_can_be_learnt_without_blocking(make_llm: MakeLLM, engine: Engine) -> None:
    """`alearn` is `learn`."""
    assert (await make_llm().alearn()).metadata.context_window == engine.context_size


def test_a_server_that_tells_nothing_leaves_the_default(server: ScriptedServer) -> None:
    """A server of 2023 has no size to tell: the field, or LlamaIndex's default, holds."""
    assert Libertai(base_url=server.url).learn().metadata.context_window == 3900


def test_wrong_settings_are_refused_at_once() -> None:
    """Unknown names and bad values never reach a server."""
    for wrong in ({"temprature": 1}, {"max_tokens": "many"}, {"engine": "demo"}):
        with pytest.raises(ValidationError) as error:
            Libertai(base_url=NOWHERE, api_key=SECRET, **wrong)
        assert SECRET not in str(error.value)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda llm: llm.model_copy()])
def test_copies_answer_alike(make_llm: MakeLLM, copied: Any) -> None:
    """A copy is as good as the original, and closing it does no harm."""
    llm = make_llm()
    answer = llm.chat(hello()).message.content
    assert copied(llm).chat(hello()).message.content == answer


def test_pickled_models_answer_alike(server: ScriptedServer) -> None:
    """In another process it is the same model, its key from there."""
    llm = Libertai(base_url=server.url, api_key=SECRET, max_tokens=4)
    llm.chat(hello())
    pickled = pickle.dumps(llm)
    assert SECRET.encode() not in pickled
    twin: Libertai = pickle.loads(pickled)
    assert twin.to_dict() == llm.to_dict() and twin.api_key is None
    assert twin.chat(hello()).message.content == llm.chat(hello()).message.content


async def test_what_lives_here_is_not_pickled(engine: Engine) -> None:
    """A running engine or an HTTP session of one's own cannot be in another process."""
    with requests.Session() as session, pytest.raises(TypeError, match="session"):
        pickle.dumps(Libertai(base_url=NOWHERE, session=session))
    async with httpx.AsyncClient() as client:
        with pytest.raises(TypeError, match="client"):
            pickle.dumps(Libertai(base_url=NOWHERE, http_async_client=client))
    with pytest.raises(TypeError, match="running engine"):
        pickle.dumps(Libertai(engine=engine))


def test_errors_are_the_client_s_own() -> None:
    """A server that is not there is one kind of error, whatever was called."""
    llm = Libertai(base_url=NOWHERE, max_retries=0)
    for call in (lambda: llm.chat(hello()), lambda: list(llm.stream_complete("a"))):
        with pytest.raises(LibertaiError):
            call()
