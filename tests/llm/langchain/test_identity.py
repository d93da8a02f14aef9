"""Which calls are the same, what a model is when written down, and what is never shown."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumps, load
from langchain_core.runnables import ConfigurableField
from pydantic import SecretStr

from libertai_llm.langchain import ChatLibertai, Libertai, LibertaiLLM
from libertai_llm.langchain.base import BaseLibertai
from tests.llm.langchain.scripted import ScriptedServer

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"temperature": 0.1}, {}),
        ({"repeat_penalty": 1.1}, {}),
        ({"model": "other"}, {}),
        ({"stop": ["a"]}, {}),
        ({"chat_template": PLAIN}, {}),
        ({"base_url": "http://127.0.0.1:9"}, {}),
        ({"extra_body": {"lora": 1}}, {}),
        ({"logprobs": True}, {}),
        ({"output_version": "v1"}, {}),
        ({}, {"temperature": 0.1}),
        ({}, {"repeat_penalty": 1.0}),
        ({}, {"model": "other"}),
        ({}, {"stop": ["a"]}),
        ({}, {"grammar": 'root ::= "a"'}),
    ],
)
def test_whatever_changes_the_answer_changes_the_cache_key(
    ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """Of the constructor and of the call."""
    base = {"base_url": "http://127.0.0.1:8"}
    plain = ChatLibertai(**base)._get_llm_string()
    assert ChatLibertai(**{**base, **ours})._get_llm_string(**theirs) != plain


def test_the_environments_server_is_part_of_the_cache_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that outlives the process must not answer for another server."""
    keys = {ChatLibertai()._get_llm_string(), ChatLibertai(engine="demo")._get_llm_string()}
    assert len(keys) == 1
    for address in ("http://127.0.0.1:8", "http://127.0.0.1:9"):
        monkeypatch.setenv("LIBERTAI_API_BASE", address)
        keys |= {ChatLibertai()._get_llm_string(), ChatLibertai(base_url=address)._get_llm_string()}
    assert len(keys) == 3


@pytest.mark.filterwarnings("ignore:.*is in beta")
def test_a_folder_is_the_same_as_a_path_and_as_text() -> None:
    """In cache keys, where its last part alone would be that of many folders, and as JSON."""
    models = [
        ChatLibertai(engine=engine) for engine in (Path("/a/m"), "/a/m", Path("/b/m"), "/b/m")
    ]
    first, same, other, other_same = (model._get_llm_string() for model in models)
    assert first == same != other == other_same
    written = json.loads(dumps(models[0]))
    again = load(written, allowed_objects=[ChatLibertai], valid_namespaces=["libertai_llm"])
    assert again._get_llm_string() == first


def test_further_fields_of_object_and_call_are_both_in_the_cache_key() -> None:
    """Both are sent, so both can change the answer."""
    models = [ChatLibertai(engine="demo", extra_body={"lora": lora}) for lora in (1, 2)]
    assert len({model._get_llm_string(extra_body={"other": 1}) for model in models}) == 2


def test_a_password_in_the_environments_address_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Identities go into traces and cache keys."""
    monkeypatch.setenv("LIBERTAI_API_BASE", "http://bob:pass-secret@127.0.0.1:8/x")
    for model in (ChatLibertai(), LibertaiLLM(), Libertai()):
        assert model._identifying_params["base_url"] == "http://127.0.0.1:8/x"
        assert "-secret" not in repr(model) + dumps(model)


def test_what_does_not_change_the_answer_is_not_in_the_cache_key() -> None:
    """Keys, slots, conversations, limits, and how a call spells an option."""
    plain = ChatLibertai(engine="demo", temperature=0.5)
    other = ChatLibertai(engine="demo", api_key="k", slot_id=3, timeout=5, max_retries=0)
    theirs = {"temperature": 0.5, "thread_id": "t", "slot_id": 1, "stream": True, "timeout": 1}
    assert other._get_llm_string(**theirs) == plain._get_llm_string()
    assert plain._get_llm_string(n_predict=3) == plain._get_llm_string(max_tokens=3)


def test_a_cached_answer_is_given_to_the_same_question_only(server: ScriptedServer) -> None:
    """Changing a field of the object or an option of the call asks again."""
    with ChatLibertai(base_url=server.url, cache=InMemoryCache(), temperature=0) as chat:
        for _ in range(2):
            chat.invoke("x", {"configurable": {"thread_id": "t"}})
            chat.invoke("x", top_k=1)
        chat.temperature = 1
        chat.invoke("x")
    assert len(server.completions) == 3


def test_secrets_are_shown_nowhere(server: ScriptedServer) -> None:
    """The key and a password in the address are sent, and in no repr, dump or identity."""
    keyed = ChatLibertai(base_url=server.url, api_key="sk-secret")
    address = server.url.replace("http://", "http://bob:pass-secret@")
    basic = ChatLibertai(base_url=address, default_headers={"X-Team": "team-secret"})
    for chat in (keyed, basic):
        chat.invoke("x")
        shown = [repr(chat), str(chat), dumps(chat), str(chat._identifying_params)]
        assert not [text for text in shown if "-secret" in text]
        chat.close()
    first, second = (each.headers for each in server.seen if each.path == "/completion")
    assert first["authorization"] == "Bearer sk-secret"
    assert second["authorization"].startswith("Basic ")
    assert second["x-team"] == "team-secret"


def test_a_key_of_the_environment_gives_way_to_other_credentials(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`LIBERTAI_API_KEY` is the default, not a conflict."""
    monkeypatch.setenv("LIBERTAI_API_KEY", "from-environment")
    address = server.url.replace("http://", "http://bob:password@")
    with ChatLibertai(base_url=server.url) as keyed, ChatLibertai(base_url=address) as basic:
        assert keyed.api_key == SecretStr("from-environment")
        keyed.invoke("x")
        basic.invoke("x")
    sent = [each.headers["authorization"] for each in server.seen if each.path == "/completion"]
    assert sent[0] == "Bearer from-environment"
    assert sent[1].startswith("Basic ")


@pytest.mark.filterwarnings("ignore:.*is in beta")
def test_a_model_survives_json_pickle_and_copying(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its options; after a call, too. JSON holds the name of the secret only."""
    monkeypatch.setenv("LIBERTAI_API_KEY", "k")
    chat = ChatLibertai(base_url=server.url, temperature=0.5, stop=["a"], model="hermes")
    chat.invoke("x", {"configurable": {"thread_id": "t"}})
    written = load(
        chat.to_json(),
        allowed_objects=[ChatLibertai],
        valid_namespaces=["libertai_llm"],
        secrets_from_env=True,
    )
    for twin in (written, pickle.loads(pickle.dumps(chat)), copy.deepcopy(chat), copy.copy(chat)):
        assert twin._identifying_params == chat._identifying_params
        assert twin.api_key == SecretStr("k")
        assert twin.invoke("x").content == " fine"
        twin.close()


@pytest.mark.parametrize("kind", [ChatLibertai, LibertaiLLM, Libertai])
def test_no_secret_is_in_a_pickle(
    kind: type[BaseLibertai], server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither keys, nor headers, nor an address's password; the reader's environment has a key."""
    address = server.url.replace("http://", "http://bob:pass-secret@")
    token = base64.b64encode(b"bob:pass-secret")
    monkeypatch.setenv("LIBERTAI_API_KEY", "old-secret")
    given = {"base_url": server.url, "temperature": 0.5}
    models = [
        kind(**given),
        kind(**given, api_key="sk-secret"),
        kind(**given, default_headers={"X-Team": "team-secret"}),
        kind(**{**given, "base_url": address}),
        kind(**given),
    ]
    models[-1].base_url = address
    for model in models:
        model.invoke("x")
        model.close()
    written = [pickle.dumps(model) for model in models]
    assert not [each for each in written if b"-secret" in each or token in each]
    monkeypatch.setenv("LIBERTAI_API_KEY", "new-secret")
    for each in written:
        with pickle.loads(each) as twin:
            assert twin.api_key == SecretStr("new-secret") and twin.default_headers is None
            assert (twin.base_url, twin.temperature) == (server.url, 0.5)
            twin.invoke("x")
        assert server.seen[-1].headers["authorization"] == "Bearer new-secret"


def test_copies_keep_the_secrets(server: ScriptedServer) -> None:
    """They stay in this process."""
    headers = {"X-Team": "team-secret"}
    chat = ChatLibertai(base_url=server.url, api_key="sk-secret", default_headers=headers)
    twins = [copy.copy(chat), copy.deepcopy(chat), chat.model_copy(), chat.model_copy(deep=True)]
    for twin in twins:
        twin.invoke("x")
        twin.close()
    sent = [each.headers for each in server.seen if each.path == "/completion"]
    assert [each["authorization"] for each in sent] == ["Bearer sk-secret"] * len(twins)
    assert [each["x-team"] for each in sent] == ["team-secret"] * len(twins)


async def test_a_model_with_http_parts_of_the_users_is_not_pickled() -> None:
    """They may hold secrets, and what a pickle could not carry is said, not dropped."""
    address = "http://127.0.0.1:9"
    with requests.Session() as mine, pytest.raises(TypeError, match="session"):
        pickle.dumps(ChatLibertai(base_url=address, session=mine))
    async with httpx.AsyncClient() as mine:
        with pytest.raises(TypeError, match="client of yours"):
            pickle.dumps(ChatLibertai(base_url=address, http_async_client=mine))


def test_a_field_may_be_configurable(server: ScriptedServer) -> None:
    """LangChain's `configurable_fields`, in one conversation."""
    with ChatLibertai(base_url=server.url) as chat:
        model = chat.configurable_fields(temperature=ConfigurableField(id="heat"))
        model.invoke("x", {"configurable": {"heat": 0.1, "thread_id": "t"}})
        model.invoke("xx", {"configurable": {"heat": 0.2, "thread_id": "t"}})
    asked = [(body["temperature"], body["slot_id"]) for body in server.completions]
    assert asked == [(0.1, -1), (0.2, 0)]
