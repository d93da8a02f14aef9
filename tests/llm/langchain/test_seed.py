"""The program of the llama-like API's own page, with only its import changed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from langchain_core.caches import InMemoryCache
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate

from libertai_engine.engine import Engine
from libertai_llm.errors import InvalidOption
from libertai_llm.langchain import Libertai
from tests.engine.serving import Running
from tests.llm.langchain.scripted import ScriptedServer

# The page's own fields and defaults.
DEFAULTS = {
    "temperature": 0.9,
    "top_p": 1,
    "top_k": 40,
    "cache_prompt": True,
    "max_length": 100,
    "slot_id": -1,
    "session": None,
    "stop": ["<|"],
}


def test_the_pages_fields_and_defaults() -> None:
    """All of them, under the same names, readable and writable."""
    openhermes = Libertai(api_base="http://127.0.0.1:9")
    assert {name: getattr(openhermes, name) for name in DEFAULTS} == DEFAULTS
    assert openhermes.api_base == "http://127.0.0.1:9"
    assert (
        openhermes._identifying_params.items()
        >= {
            "base_url": "http://127.0.0.1:9",
            "temperature": 0.9,
            "top_p": 1,
            "top_k": 40,
            "cache_prompt": True,
            "max_tokens": 100,
        }.items()
    )


def test_the_pages_request(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    """The fields that the page's class sends, without `n`, which no server knows; no prints.

    `context_shift` goes along, so that a prompt that does not fit is an error here, too.
    """
    with Libertai(api_base=server.url) as openhermes:
        assert openhermes.invoke("Hello") == " fine"
    assert server.completions[0] == {
        "prompt": "Hello",
        "temperature": 0.9,
        "top_p": 1,
        "top_k": 40,
        "n_predict": 100,
        "stop": ["<|"],
        "slot_id": -1,
        "id_slot": -1,
        "cache_prompt": True,
        "context_shift": False,
        "stream": False,
    }
    assert capsys.readouterr().out == ""


def test_fields_may_be_set_like_on_the_page(server: ScriptedServer) -> None:
    """In the constructor, later, in a subclass, and for one call."""

    class OpenHermes(Libertai):
        api_base: str | None = server.url
        max_length: int = 5

    with OpenHermes(top_k=3) as openhermes:
        openhermes.invoke("x")
        openhermes.max_length = 6
        openhermes.invoke("x", temperature=0)
        openhermes.invoke("x", max_tokens=7)
        openhermes.invoke("x", cache_prompt=False)
    bodies = server.completions
    assert [body["n_predict"] for body in bodies] == [5, 6, 7, 6]
    assert [body["temperature"] for body in bodies] == [0.9, 0, 0.9, 0.9]
    assert [body["cache_prompt"] for body in bodies] == [True, True, True, False]
    assert {body["top_k"] for body in bodies} == {3}


async def test_max_length_may_be_given_at_a_call(server: ScriptedServer) -> None:
    """It acts, is traced and is cached as the field is, whichever way the call is made."""
    async with Libertai(api_base=server.url) as openhermes:
        assert openhermes.invoke("x", max_length=2) == " f"
        assert await openhermes.ainvoke("x", max_length=3) == " fi"
        assert "".join(openhermes.stream("x", max_length=4)) == " fin"
        assert "".join([each async for each in openhermes.astream("x", max_length=1)]) == " "
        assert openhermes.bind(max_length=2).batch(["x"]) == [" f"]
        assert openhermes.invoke("x", max_length=None) == " fine"
        assert openhermes._get_ls_params(max_length=7)["ls_max_tokens"] == 7
        with pytest.raises(InvalidOption, match="max_length"):
            openhermes.invoke("x", max_length=2, max_tokens=2)
        openhermes.cache = InMemoryCache()
        told = [openhermes.invoke("y", max_length=length) for length in (2, 3, 2)]
    assert told == [" f", " fi", " f"]
    sent = [body["n_predict"] for body in server.completions]
    assert sent == [2, 3, 4, 1, 2, 100, 2, 3]


def test_stop_words_of_a_call_replace_the_objects(server: ScriptedServer) -> None:
    """As on the page: `stop or self.stop`."""
    with Libertai(api_base=server.url, stop=["###"]) as openhermes:
        openhermes.invoke("x")
        openhermes.invoke("x", stop=["\n"])
        list(openhermes.stream("x", stop=["\n"]))
    assert [body["stop"] for body in server.completions] == [["###"], ["\n"], ["\n"]]


def test_cookies_stick_and_slots_belong_to_conversations(server: ScriptedServer) -> None:
    """The page's class lost its cookies and had one slot for everything; in threads, too."""
    session = requests.Session()
    session.headers["X-Mine"] = "yes"
    texts = {name: f"{name}: hello" for name in ("cats", "dogs", "birds", "fish")}

    def talk(name: str) -> None:
        text = texts[name]
        for _ in range(3):
            text += openhermes.invoke(text) + " and?"

    with Libertai(api_base=server.url, session=session) as openhermes, ThreadPoolExecutor() as pool:
        list(pool.map(talk, texts))
        assert openhermes.slot_id == -1
    for name in texts:
        seen = [each for each in server.seen if each.body["prompt"].startswith(name)]
        slots = [each.body["slot_id"] for each in seen]
        assert slots[0] == -1 and slots[1] == slots[2] != -1
        assert seen[1].cookie == seen[2].cookie != ""
        assert {each.headers["x-mine"] for each in seen} == {"yes"}
    cookies = {each.cookie for each in server.seen} - {""}
    assert len(cookies) == len(texts)


def test_a_slot_of_the_users_is_kept(server: ScriptedServer) -> None:
    """Slot 0 is a slot."""
    with Libertai(api_base=server.url, slot_id=0) as openhermes:
        openhermes.invoke("a")
        openhermes.invoke("b")
    assert [body["slot_id"] for body in server.completions] == [0, 0]


def test_a_refusal_is_an_error_and_not_none(server: ScriptedServer) -> None:
    """The page's class returned None, which LangChain then fell over."""
    server.failure = (500, "broken")
    with (
        Libertai(api_base=server.url, max_retries=0) as openhermes,
        pytest.raises(Exception, match="broken"),
    ):
        openhermes.invoke("x")


async def test_the_rest_of_the_langchain_toolset(server: ScriptedServer) -> None:
    """Chains, streams, batches and asynchronous calls."""
    async with Libertai(api_base=server.url) as openhermes:
        chain = PromptTemplate.from_template("Say {word}") | openhermes | StrOutputParser()
        assert chain.invoke({"word": "hi"}) == " fine"
        assert "".join(chain.stream({"word": "hi"})) == " fine"
        assert await chain.ainvoke({"word": "hi"}) == " fine"
        assert chain.batch([{"word": "a"}, {"word": "b"}]) == [" fine"] * 2


def test_on_the_real_engine(tiny_server: Running, tiny_engine: Engine) -> None:
    """Over HTTP and in-process, the same answer, and a second turn from the cache."""
    prompt = "The quick brown fox"
    with (
        Libertai(api_base=tiny_server.url, temperature=0) as there,
        Libertai(engine=tiny_engine, temperature=0) as here,
    ):
        answer = there.invoke(prompt)
        assert here.invoke(prompt) == answer != ""
        info = here.generate([prompt]).generations[0][0].generation_info
    assert info is not None
    assert info["usage_metadata"]["input_token_details"]["cache_read"] > 0
