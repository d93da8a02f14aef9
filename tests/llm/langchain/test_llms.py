"""What `LibertaiLLM` promises. There is no standard suite for text models, so this is one."""

from __future__ import annotations

import asyncio
import copy
import pickle
import time
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ModelAPIError
from langchain_core.load import dumpd, load
from langchain_core.outputs import LLMResult
from langchain_core.prompts import PromptTemplate
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import RunnableLambda

from libertai_engine.engine import Engine
from libertai_llm.langchain import Libertai, LibertaiLLM
from tests.engine.serving import Running
from tests.llm.langchain.scripted import RefusedError, ScriptedServer

TEXT = " one two three four"


class Listener(BaseCallbackHandler):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.started: list[dict[str, Any]] = []
        self.ended: list[LLMResult] = []
        self.errors: list[BaseException] = []

    def on_llm_start(self, *_: Any, **kwargs: Any) -> None:
        self.started.append(kwargs)

    def on_llm_new_token(self, token: str, **_: Any) -> None:
        self.tokens.append(token)

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        self.ended.append(response)

    def on_llm_error(self, error: BaseException, **_: Any) -> None:
        self.errors.append(error)


@pytest.fixture
def llm(server: ScriptedServer) -> Iterator[LibertaiLLM]:
    server.answer = lambda prompt: TEXT if prompt == "x" else f" re: {prompt}"
    with LibertaiLLM(base_url=server.url, model="hermes") as llm:
        yield llm


@pytest.fixture(params=["in-process", "http"])
def tiny_llm(request: pytest.FixtureRequest, tiny_engine: Engine) -> Iterator[LibertaiLLM]:
    """Greedy, on the random Llama."""
    if request.param == "http":
        server: Running = request.getfixturevalue("tiny_server")
        llm = LibertaiLLM(base_url=server.url, temperature=0, max_tokens=12)
    else:
        llm = LibertaiLLM(engine=tiny_engine, temperature=0, max_tokens=12)
    with llm:
        yield llm


async def test_every_way_to_ask_gives_the_same_answer(tiny_llm: LibertaiLLM) -> None:
    """invoke, stream, batch, generate, and their asynchronous twins, on the real engine."""
    prompt = "Once upon a time"
    expected = tiny_llm.invoke(prompt)
    assert expected
    assert "".join(tiny_llm.stream(prompt)) == expected
    assert tiny_llm.batch([prompt] * 3) == [expected] * 3
    assert tiny_llm.generate([prompt]).generations[0][0].text == expected
    assert await tiny_llm.ainvoke(prompt) == expected
    assert "".join([chunk async for chunk in tiny_llm.astream(prompt)]) == expected
    assert await tiny_llm.abatch([prompt] * 3) == [expected] * 3
    assert (await tiny_llm.agenerate([prompt])).generations[0][0].text == expected
    listener = Listener()
    assert tiny_llm.invoke(prompt, {"callbacks": [listener]}) == expected
    assert "".join(listener.tokens) == expected


def test_the_prompt_is_sent_as_it_is(llm: LibertaiLLM, server: ScriptedServer) -> None:
    """No template, no trimming."""
    prompt = " <|im_start|>  Building a website:\n\n"
    assert llm.invoke(prompt) == f" re: {prompt}"
    (PromptTemplate.from_template("{x} and {x}") | llm).invoke({"x": "a"})
    assert [body["prompt"] for body in server.completions] == [prompt, "a and a"]


def test_a_generation_tells_everything(llm: LibertaiLLM) -> None:
    """Reason, model, usage with cached tokens, probabilities; whole as streamed."""
    result = llm.generate(["x"], logprobs=True)
    info = result.generations[0][0].generation_info
    assert info is not None
    assert (info["finish_reason"], info["model_name"]) == ("stop", "models/scripted.gguf")
    assert info["usage_metadata"]["input_tokens"] == 2
    assert len(info["logprobs"]["content"]) == len(TEXT)
    assert result.llm_output is not None
    assert result.llm_output["token_usage"]["completion_tokens"] == len(TEXT)
    listener = Listener()
    list(llm.stream("x", {"callbacks": [listener]}, logprobs=True))
    streamed = listener.ended[0].generations[0][0].generation_info
    assert streamed is not None
    assert streamed["logprobs"] == info["logprobs"]
    assert streamed["finish_reason"] == "stop"
    assert streamed["usage_metadata"]["input_token_details"]["cache_read"] == 1


async def test_callbacks_hear_every_token(llm: LibertaiLLM) -> None:
    """Whoever listens is told, also in `invoke`; nobody is told twice."""
    asks = (
        lambda config: llm.invoke("x", config),
        lambda config: list(llm.stream("x", config)),
        lambda config: llm.ainvoke("x", config),
    )
    for ask in asks:
        listener = Listener()
        answer = ask({"callbacks": [listener]})
        if asyncio.iscoroutine(answer):
            await answer
        assert "".join(listener.tokens) == TEXT and len(listener.tokens) > 3
        assert listener.ended[0].generations[0][0].text == TEXT


def test_streaming_off_means_off(llm: LibertaiLLM, server: ScriptedServer) -> None:
    """`streaming=False` said aloud asks for the whole answer even if somebody listens."""
    listener = Listener()
    llm.model_copy(update={"streaming": False}).invoke("x", {"callbacks": [listener]})
    assert listener.tokens == []
    assert server.completions[-1]["stream"] is False


async def test_events_of_a_model_inside_a_chain(llm: LibertaiLLM) -> None:
    """`astream_events` shows the tokens of a nested `invoke`."""
    chain = RunnableLambda(lambda text: llm.invoke(text))  # noqa: PLW0108
    events = [event async for event in chain.astream_events("x", version="v2")]
    texts = [each["data"]["chunk"].text for each in events if each["event"] == "on_llm_stream"]
    assert "".join(texts) == TEXT and len(texts) > 3


def test_a_batch_has_callbacks_of_its_own(llm: LibertaiLLM) -> None:
    """Each prompt's tokens go to its own listener, at once and in order."""
    listeners = [Listener() for _ in range(8)]
    prompts = [f"p{number}" for number in range(8)]
    answers = llm.batch(prompts, [{"callbacks": [listener]} for listener in listeners])
    assert answers == [f" re: {prompt}" for prompt in prompts]
    assert ["".join(listener.tokens) for listener in listeners] == answers


def refuse_bad(prompt: str) -> str:
    if prompt == "bad":
        raise RefusedError("a bad one")
    return " ok"


async def test_one_failure_in_a_batch_is_one_failure(server: ScriptedServer) -> None:
    """With `return_exceptions`, the other answers arrive."""
    server.answer = refuse_bad
    async with LibertaiLLM(base_url=server.url, max_retries=0) as llm:
        for results in (
            llm.batch(["a", "bad", "b"], return_exceptions=True),
            await llm.abatch(["a", "bad", "b"], return_exceptions=True),
        ):
            assert (results[0], results[2]) == (" ok", " ok")
            assert isinstance(results[1], ModelAPIError)


async def test_a_failed_prompt_of_many_ends_the_rest(server: ScriptedServer) -> None:
    """`generate` with several prompts raises the first error, blocking or not."""
    server.answer = refuse_bad
    async with LibertaiLLM(base_url=server.url, max_retries=0) as llm:
        with pytest.raises(ModelAPIError, match="a bad one"):
            llm.generate(["a", "bad", "b"])
        with pytest.raises(ModelAPIError, match="a bad one"):
            await llm.agenerate(["a", "bad", "b"])


async def test_leaving_a_stream_stops_the_server(server: ScriptedServer) -> None:
    """Breaking out of the loop closes the connection."""
    server.answer, server.delay = (lambda prompt: "word " * 200), 0.01
    async with LibertaiLLM(base_url=server.url) as llm:
        for chunk in llm.stream("x"):
            assert chunk
            break
        assert await asyncio.to_thread(server.closed_early.wait, 10)
        server.closed_early.clear()
        stream = llm.astream("x")
        await anext(stream)
        await stream.aclose()
        assert await asyncio.to_thread(server.closed_early.wait, 10)


async def test_options_of_a_call_are_in_the_cache_key(server: ScriptedServer) -> None:
    """`BaseLLM` itself answers a call with the cached answer of another grammar."""
    server.answer = lambda prompt: f" {len(server.completions)}"
    with LibertaiLLM(base_url=server.url, cache=InMemoryCache()) as llm:
        first = llm.invoke("x", grammar='root ::= "a"')
        assert llm.invoke("x", grammar='root ::= "b"') != first
        assert llm.invoke("x", grammar='root ::= "a"', thread_id="t") == first
        assert llm.invoke("x") not in (first, llm.invoke("x", grammar='root ::= "b"'))
        assert await llm.ainvoke("x", grammar='root ::= "a"') == first
        assert llm.invoke("x", stop=["a"]) not in (first, llm.invoke("x"))
        assert llm.invoke("x", n_predict=5) == llm.invoke("x", max_tokens=5)
        llm.temperature = 0.5
        assert llm.invoke("x", grammar='root ::= "a"') != first
    assert len(server.completions) == 6


async def test_stop_words_are_in_the_cache_key(server: ScriptedServer) -> None:
    """The constructor's as well, of which `BaseLLM` knows nothing."""
    server.answer = lambda prompt: "one two three"
    cache = InMemoryCache()
    for kind in (LibertaiLLM, Libertai):
        for stop, expected in (("three", "one two "), ("two", "one "), (None, "one two three")):
            async with kind(base_url=server.url, cache=cache, stop=stop) as llm:
                assert await llm.ainvoke("x") == llm.invoke("x") == expected
    assert len(server.completions) == 6


def test_options_of_a_call_are_traced(llm: LibertaiLLM) -> None:
    """As if the constructor had been given them; the object itself stays as it was."""
    listener = Listener()
    llm.invoke("x", {"callbacks": [listener]}, temperature=0.5, model="other", stop=["b"])
    started = listener.started[0]
    assert started["invocation_params"]["temperature"] == 0.5
    assert started["metadata"]["ls_model_name"] == "other"
    assert started["metadata"]["ls_model_type"] == "llm"
    assert started["metadata"]["ls_provider"] == "libertai"
    assert started["metadata"]["ls_stop"] == ["b"]
    assert (llm.temperature, llm.model) == (None, "hermes")


def test_an_error_reaches_the_callbacks(server: ScriptedServer) -> None:
    """Once, and then the caller."""
    server.failure = (500, {"detail": "broken"})
    listener = Listener()
    with LibertaiLLM(base_url=server.url, max_retries=0) as llm:
        with pytest.raises(Exception, match="broken"):
            llm.invoke("x", {"callbacks": [listener]})
        with pytest.raises(Exception, match="broken"):
            list(llm.stream("x", {"callbacks": [listener]}))
    assert len(listener.errors) == 2


async def test_a_rate_limiter_is_asked(server: ScriptedServer) -> None:
    """Before each prompt, whole or streamed, blocking or not."""
    limiter = InMemoryRateLimiter(
        requests_per_second=10, check_every_n_seconds=0.01, max_bucket_size=1
    )
    with LibertaiLLM(base_url=server.url, rate_limiter=limiter) as llm:
        start = time.monotonic()
        llm.invoke("x")
        list(llm.stream("x"))
        await llm.ainvoke("x")
        llm.generate(["a", "b"])
    assert time.monotonic() - start > 0.35


def test_token_counts_are_the_models(tiny_llm: LibertaiLLM, tiny_engine: Engine) -> None:
    """From the model's tokenizer, without BOS."""
    text = "the capital of France"
    expected = tiny_engine.tokenizer.encode(text, add_special=False)
    assert tiny_llm.get_token_ids(text) == expected
    assert tiny_llm.get_num_tokens(text) == len(expected)


@pytest.mark.filterwarnings("ignore:.*is in beta")
def test_a_model_survives_json_pickle_and_copying(llm: LibertaiLLM) -> None:
    """With its options, and it works again."""
    llm = llm.model_copy(update={"temperature": 0.5})
    llm.invoke("x")
    written = load(dumpd(llm), allowed_objects=[LibertaiLLM], valid_namespaces=["libertai_llm"])
    for twin in (written, pickle.loads(pickle.dumps(llm)), copy.deepcopy(llm)):
        assert twin._identifying_params == llm._identifying_params
        assert twin.invoke("x") == TEXT
        twin.close()


def test_no_prompts_no_answers(llm: LibertaiLLM) -> None:
    """An empty list is not an error."""
    assert llm.generate([]).generations == []
    assert llm.batch([]) == []
