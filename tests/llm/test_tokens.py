"""The ids of answers: told alike by every way, and the exact beginning of a next prompt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.engine import Engine, load_engine
from libertai_llm import Client, Session
from libertai_llm.assembly import Assembler
from libertai_llm.langchain import ChatLibertai
from libertai_llm.types import Completion
from tests.engine.serving import Running, running
from tests.llm.conftest import MakeClient

NUM_CONVERSATIONS, NUM_TURNS = 5, 10
QUESTIONS = (
    " And then",
    " But why?",
    " Tell me more.",
    ' She said: "Oh!"',
    "\nNo, ",
    " 3 plus 4 is",
)
SAMPLED: dict[str, Any] = {"temperature": 0.8, "max_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with load_engine("demo", progress=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[Running]:
    with running(CompletionAPI(engine)) as server:
        yield server


@pytest.fixture(params=["engine", "http"])
def client(
    request: pytest.FixtureRequest, any_client: MakeClient, engine: Engine, server: Running
) -> Any:
    """Either client, on the same engine, by both ways."""
    return any_client(server.url) if request.param == "http" else any_client(engine=engine)


def test_ids_make_the_text(client: Any, engine: Engine) -> None:
    """Whole, in chunks and of several prompts; only if they were asked for."""
    options: dict[str, Any] = {**SAMPLED, "temperature": 0, "return_tokens": True}
    whole = client.complete("Once upon a time", **options)
    assert len(whole.tokens) == whole.tokens_predicted == 12
    assert engine.tokenizer.decode(whole.tokens) == whole.content
    chunks = list(client.stream("Once upon a time", **options))
    assert chunks[-1].final.tokens == whole.tokens
    assert sum((chunk.tokens for chunk in chunks), ()) == whole.tokens
    assert all(engine.tokenizer.decode(chunk.tokens) == chunk.content for chunk in chunks)
    several = client.complete_many(["Once upon a time", "The"], **options)
    assert several[0].tokens == whole.tokens != several[1].tokens != ()
    unasked = {**options, "return_tokens": None}
    assert client.complete("Once upon a time", **unasked).tokens == ()
    assert list(client.stream("Once upon a time", **unasked))[-1].final.tokens == ()


def test_the_end_is_no_part_of_the_text(client: Any, engine: Engine) -> None:
    """Neither the end-of-sequence token nor a stop word's tokens; one that is cut stays whole."""
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "return_tokens": True}
    (end,) = engine.tokenizer.encode("<|im_end|>", add_special=False)
    ended = client.complete("Hello", logit_bias={end: 100.0}, **options)
    assert (ended.stop_type, ended.tokens, ended.tokens_predicted) == ("eos", (), 1)
    whole = client.complete("Hello", ignore_eos=True, **options)
    word = whole.content.split()[2]
    stopped = client.complete("Hello", ignore_eos=True, stop=[word[1:]], **options)
    text = engine.tokenizer.decode(stopped.tokens)
    assert whole.tokens[: len(stopped.tokens)] == stopped.tokens
    assert text.startswith(stopped.content) and len(text) <= len(stopped.content) + len(word)


def test_a_prompt_of_ids_continues_every_answer(engine: Engine) -> None:
    """Fifty sampled turns: each reuses all that its slot holds, however its text would be split."""
    with Client(engine=engine) as client:
        for number in range(NUM_CONVERSATIONS):
            session, held = Session(), 0
            prompt: list[int | str] = [f"Story number {number}: "]
            for turn in range(NUM_TURNS):
                seed = 100 * number + turn
                options = {**SAMPLED, "seed": seed, "return_tokens": True}
                answer = client.complete(prompt, session=session, **options)
                assert answer.tokens_cached == held or turn == 0, (number, turn)
                if turn == NUM_TURNS - 1:
                    afresh = client.complete(prompt, cache_prompt=False, **options)
                    assert (afresh.tokens, afresh.content) == (answer.tokens, answer.content)
                # The last token was sampled, not evaluated.
                held = answer.tokens_evaluated + answer.tokens_predicted - 1
                prompt += [*answer.tokens, QUESTIONS[seed % len(QUESTIONS)]]


def test_a_langchain_message_has_them(server: Running) -> None:
    """Streamed or not, in its metadata."""
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "return_tokens": True}
    with ChatLibertai(base_url=server.url, **options) as chat:
        whole = chat.invoke("Hello!")
        first, *others = chat.stream("Hello!")
        for other in others:
            first += other
        assert len(whole.response_metadata["tokens"]) > 0
        assert first.response_metadata["tokens"] == whole.response_metadata["tokens"]
        assert "tokens" not in chat.invoke("Hello!", return_tokens=False).response_metadata


def test_what_other_servers_tell() -> None:
    """Today's streams tell ids unasked; what is no list of ids is none."""
    event = {"content": "x", "tokens": [5], "stop": False}
    last = {"content": "", "tokens": [], "stop": True}
    for keeps, expected in ((True, (5, 5)), (False, ())):
        assembler = Assembler(keeps_tokens=keeps)
        for item in (event, event, last):
            assembler.push(item)
        assert assembler.final is not None and assembler.final.tokens == expected
    for told in (None, "5", 5, [5, None], [5, "6"], [-1], [True]):
        assert Completion.from_wire({"content": "x", "tokens": told}).tokens == ()
