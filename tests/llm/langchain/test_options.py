"""What the constructor and a call say reaches the server; what nobody knows is refused by name."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from pydantic import ValidationError

from libertai_llm.errors import InvalidOption, UnknownOption
from libertai_llm.langchain import ChatLibertai, LibertaiLLM
from libertai_llm.langchain.base import BaseLibertai
from libertai_llm.params import CompletionParams
from libertai_llm.timeouts import Timeouts
from libertai_llm.tools import tool_grammar
from tests.llm.langchain.scripted import ScriptedServer
from tests.llm.option_values import OPTIONS


def as_grammar(schema: dict[str, Any]) -> str | None:
    return tool_grammar([], response_schema=schema)


SAME_ON_BOTH = pytest.mark.parametrize("kind", [ChatLibertai, LibertaiLLM])


def test_every_option_of_the_client_is_a_field() -> None:
    """The constructor knows what the client knows, and this table knows it as well."""
    names = {each.name for each in dataclasses.fields(CompletionParams)}
    assert names <= BaseLibertai.model_fields.keys()
    assert set(OPTIONS) == names - {"stop", "extra_body"}


@SAME_ON_BOTH
@pytest.mark.parametrize("name", OPTIONS)
def test_a_call_overrides_the_constructor(server: ScriptedServer, kind: Any, name: str) -> None:
    """Every option, also with a value that is zero, false or empty; for that one call only."""
    ours, theirs, wire = OPTIONS[name]
    with kind(base_url=server.url, **{name: ours}) as model:
        model.invoke("x")
        model.invoke("x", **{name: theirs})
        list(model.stream("x", **{name: theirs}))
        model.invoke("x", **{name: None})
    if name == "json_schema":  # what every server reads is a grammar
        wire, (ours, theirs) = "grammar", map(as_grammar, (ours, theirs))
    assert [body[wire] for body in server.completions] == [ours, theirs, theirs, ours]


@SAME_ON_BOTH
async def test_a_call_overrides_the_constructor_without_blocking(
    server: ScriptedServer, kind: Any
) -> None:
    """The asynchronous methods take the same options."""
    async with kind(base_url=server.url, temperature=0.5) as model:
        await model.ainvoke("x", temperature=0)
        async for _ in model.astream("x", temperature=0.1):
            pass
        await model.bind(temperature=0.2).ainvoke("x")
    assert [body["temperature"] for body in server.completions] == [0, 0.1, 0.2]


@SAME_ON_BOTH
def test_what_is_not_set_is_not_sent(server: ScriptedServer, kind: Any) -> None:
    """The server's defaults hold, but for caching (the page says so) and for whole prompts."""
    with kind(base_url=server.url) as model:
        model.invoke("x")
    stops = {"stop"} if kind is ChatLibertai else set()
    usual = {"prompt", "stream", "cache_prompt", "context_shift", "slot_id", "id_slot"}
    assert set(server.completions[0]) == usual | stops


@SAME_ON_BOTH
@pytest.mark.parametrize("name", ["n_predict", "max_completion_tokens", "max_tokens"])
def test_other_names_of_an_option(server: ScriptedServer, kind: Any, name: str) -> None:
    """The wire's and OpenAI's names are accepted in both places."""
    with kind(base_url=server.url, **{name: 3}) as model:
        assert model.max_tokens == 3
        model.invoke("x")
        model.invoke("x", **{name: 4})
    assert [body["n_predict"] for body in server.completions] == [3, 4]


@SAME_ON_BOTH
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temperatur": 1}, "temperatur"),
        ({"tools": []}, "tools"),
        ({"temperature": "hot"}, "temperature"),
        ({"mirostat": 3}, "mirostat"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"max_tokens": 1, "n_predict": 1}, "given twice"),
        ({"extra_body": {"seed": 1}}, "seed"),
    ],
)
def test_a_wrong_constructor_option_is_named(kind: Any, given: dict[str, Any], words: str) -> None:
    """At once, not at the first call."""
    with pytest.raises(ValidationError, match=words):
        kind(base_url="http://127.0.0.1:9", **given)


@SAME_ON_BOTH
@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"temperatur": 1}, UnknownOption, "`temperatur`: did you mean `temperature`"),
        ({"tool": []}, UnknownOption, "`tool`"),
        ({"temperature": "hot"}, InvalidOption, "`temperature`"),
        ({"max_tokens": 1, "n_predict": 1}, InvalidOption, "given twice"),
        ({"extra_body": 5}, InvalidOption, "`extra_body`"),
        ({"stop": 5}, InvalidOption, "`stop`"),
        ({"stop": [5]}, InvalidOption, "`stop`"),
    ],
)
def test_a_wrong_call_option_is_named(
    server: ScriptedServer, kind: Any, given: dict[str, Any], error: type[Exception], words: str
) -> None:
    """Nothing is sent, whichever way the call is made."""
    with kind(base_url=server.url) as model:
        with pytest.raises(error, match=words):
            model.invoke("x", **given)
        with pytest.raises(error, match=words):
            list(model.stream("x", **given))
    assert server.completions == []


@SAME_ON_BOTH
def test_a_message_about_an_option_does_not_quote_the_key(kind: Any) -> None:
    """Validation errors show no input: the key may be in it."""
    with pytest.raises(ValidationError) as caught:
        kind(api_key="sk-secret", max_tokens=-2)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("ours", "theirs", "sent"),
    [
        (None, None, []),
        ([], None, []),
        (["a"], None, ["a"]),
        ("a", ["b"], ["a", "b"]),
        (["a", "b"], ["b", "c", ""], ["a", "b", "c"]),
        (None, ["a"], ["a"]),
    ],
)
def test_stop_words_of_constructor_and_call_are_merged(
    server: ScriptedServer, ours: Any, theirs: Any, sent: list[str]
) -> None:
    """Both count; a chat model adds the word that ends its template's turns."""
    with LibertaiLLM(base_url=server.url, stop=ours) as llm:
        llm.invoke("x", stop=theirs)
        list(llm.bind(stop=theirs).stream("x"))
    with ChatLibertai(base_url=server.url, stop=ours) as chat:
        chat.invoke("x", stop=theirs)
    assert [body.get("stop", []) for body in server.completions] == [
        sent,
        sent,
        [*sent, "<|im_end|>"],
    ]


@SAME_ON_BOTH
def test_stop_words_stop(server: ScriptedServer, kind: Any) -> None:
    """The answer ends before the word, and says which it was."""
    server.answer = lambda prompt: "one two three"
    with kind(base_url=server.url) as model:
        answer = model.invoke("x", stop=["three", "two"])
    assert (answer if kind is LibertaiLLM else answer.content) == "one "


@SAME_ON_BOTH
def test_further_fields_for_the_server(server: ScriptedServer, kind: Any) -> None:
    """`extra_body` of constructor and call are merged; a model's name is sent if there is one."""
    with kind(base_url=server.url, extra_body={"lora": 1, "x": 1}, model="a") as model:
        model.invoke("x", extra_body={"x": 2}, model="b")
        model.invoke("x")
    first, second = server.completions
    assert (first["lora"], first["x"], first["model"]) == (1, 2, "b")
    assert (second["lora"], second["x"], second["model"]) == (1, 1, "a")


@SAME_ON_BOTH
@pytest.mark.parametrize(
    ("ours", "theirs", "sent"),
    [
        ({"logprobs": True}, {}, 1),
        ({"top_logprobs": 3}, {}, 3),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": False}, None),
        ({}, {"logprobs": True, "top_logprobs": 2}, 2),
        ({"n_probs": 4, "logprobs": True}, {}, 4),
        ({}, {}, None),
    ],
)
def test_probabilities_by_langchains_names(
    server: ScriptedServer, kind: Any, ours: dict[str, Any], theirs: dict[str, Any], sent: Any
) -> None:
    """`logprobs` and `top_logprobs` ask for `n_probs`."""
    with kind(base_url=server.url, **ours) as model:
        model.invoke("x", **theirs)
    assert server.completions[0].get("n_probs") == sent


@SAME_ON_BOTH
def test_a_call_may_set_its_own_limits(server: ScriptedServer, kind: Any) -> None:
    """A number of seconds or `Timeouts`, for the call or the constructor, under either name."""
    model = kind(base_url=server.url, request_timeout=Timeouts(total=30))
    assert model.timeout == Timeouts(total=30)
    with model:
        model.invoke("x", timeout=20)
        model.invoke("x", timeout=Timeouts(connect=5))
    assert len(server.completions) == 2


@SAME_ON_BOTH
def test_fields_may_be_changed_later(server: ScriptedServer, kind: Any) -> None:
    """An object is what its fields say now, its address included."""
    with kind(base_url="http://127.0.0.1:9", temperature=0.1) as model:
        model.base_url = server.url
        model.temperature = 0.2
        model.invoke("x")
    assert server.completions[0]["temperature"] == 0.2
