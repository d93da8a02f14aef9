"""Two ways to one answer give the same answer, for fifty random requests.

stream = whole · sync = async · in-process = HTTP · batched = alone · cached = uncached. And greedy
tokens are those of transformers' own `generate`, whatever the architecture.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import libertai_engine
from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_engine.sampling_params import SamplingParams
from libertai_engine.sequence import Request
from libertai_llm import AsyncClient, Client, Completion
from tests.engine.serving import running
from tests.fakes import save_tiny_model

NUM_REQUESTS = 50
WORDS = (
    "Hello there how are you today my name is Anna the cat and dog like red apples Building a "
    "website can be done in simple steps What is two plus three \n User: Assistant: é \N{OWL} 你好"
).split(" ")


@dataclass(frozen=True, eq=False)
class Near:
    """A probability. Equal to another one that is off by rounding only.

    NOTE: rows of a batch share matrix products, and steps of few and of many tokens are computed in
    different ways: the last bits differ.
    """

    value: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Near) and abs(self.value - other.value) < 1e-4

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Seen:
    """What two ways have to agree on."""

    content: str
    stop_type: str
    stopping_word: str
    num_prompt_tokens: int
    num_tokens: int
    truncated: bool
    probs: tuple[tuple[str, tuple[tuple[str, Near], ...]], ...]


def seen(completion: Completion) -> Seen:
    return Seen(
        content=completion.content,
        stop_type=completion.stop_type,
        stopping_word=completion.stopping_word,
        num_prompt_tokens=completion.tokens_evaluated,
        num_tokens=completion.tokens_predicted,
        truncated=completion.truncated,
        probs=tuple(
            (token.chosen.token, tuple((top.token, Near(top.prob or 0)) for top in token.top))
            for token in completion.probs
        ),
    )


def random_request(number: int) -> dict[str, Any]:
    """A request with options drawn from a generator of its own; greedy or seeded."""
    draw = random.Random(number)
    prompt: Any = " ".join(draw.choices(WORDS, k=draw.randint(1, 30)))
    if draw.random() < 0.2:
        prompt = [draw.randint(3, 300), prompt, draw.randint(3, 300)]
    options: dict[str, Any] = {
        "prompt": prompt,
        "max_tokens": draw.choice([0, 1, 2, 16, 32, 48]),
        "stop": draw.sample(["\n", " the", "ood", ". I", "<|im_end|>", "3."], draw.randint(0, 2)),
        "repeat_penalty": draw.choice([1.0, 1.1, 1.3]),
        "n_probs": draw.choice([0, 0, 3]),
        "ignore_eos": draw.random() < 0.6,
        "seed": number,
        "temperature": draw.choice([0.0, 0.0, 0.8]),
    }
    if draw.random() < 0.3:
        options["logit_bias"] = [[draw.randint(3, 300), draw.choice([2.0, -5.0, False])]]
    return options


REQUESTS = [random_request(number) for number in range(NUM_REQUESTS)]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    config = EngineConfig(model="demo", num_slots=4, batch_size=32, dtype="fp32", context_size=512)
    with load_engine(config, progress=False) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    with running(CompletionAPI(engine)) as server:
        yield server.url


@pytest.fixture(scope="module")
def alone(engine: Engine) -> list[Seen]:
    """Each request by itself, nothing cached, in-process: what all other ways are held to."""
    with Client(engine=engine) as client:
        return [seen(client.complete(**request, cache_prompt=False)) for request in REQUESTS]


def test_the_requests_exercise_something(alone: list[Seen]) -> None:
    """A parity test over empty answers would prove nothing."""
    assert {each.stop_type for each in alone} == {"eos", "word", "limit"}
    assert sum(len(each.content) for each in alone) > 500
    assert sum(bool(each.probs) for each in alone) >= 5


def both_ends(engine: Engine, url: str, where: str) -> dict[str, Any]:
    return {"engine": engine} if where == "in-process" else {"base_url": url}


@pytest.mark.parametrize("cached", [False, True], ids=["uncached", "cached"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "stream"])
@pytest.mark.parametrize("where", ["in-process", "http"])
def test_sync(
    engine: Engine, url: str, alone: list[Seen], where: str, whole: bool, cached: bool
) -> None:
    """Sync, whole or streamed, near or far, with what earlier requests left in the cache or not."""
    with Client(**both_ends(engine, url, where)) as client:
        for request, expected in zip(REQUESTS, alone, strict=True):
            if whole:
                got = client.complete(**request, cache_prompt=cached)
            else:
                chunks = list(client.stream(**request, cache_prompt=cached))
                final = chunks[-1].final
                assert final is not None
                assert "".join(chunk.content for chunk in chunks) == final.content
                assert sum((chunk.probs for chunk in chunks), ()) == final.probs
                got = final
            assert seen(got) == expected, request
            assert cached or got.tokens_cached == 0


@pytest.mark.parametrize("where", ["in-process", "http"])
async def test_async_and_all_at_once(
    engine: Engine, url: str, alone: list[Seen], where: str
) -> None:
    """Fifty tasks at once on four slots, half of them streaming, cached or not."""

    async def ask(client: AsyncClient, number: int) -> Completion:
        request = REQUESTS[number] | {"cache_prompt": number % 3 == 0}
        if number % 2:
            return await client.complete(**request)
        chunks = [chunk async for chunk in client.stream(**request)]
        assert chunks[-1].final is not None
        return chunks[-1].final

    async with AsyncClient(**both_ends(engine, url, where)) as client:
        answers = await asyncio.gather(*(ask(client, number) for number in range(NUM_REQUESTS)))
    assert [seen(answer) for answer in answers] == alone


@pytest.mark.parametrize("where", ["in-process", "http"])
def test_threads_at_once(engine: Engine, url: str, alone: list[Seen], where: str) -> None:
    """Eight threads share one client and four slots."""
    with Client(**both_ends(engine, url, where)) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda request: client.complete(**request), REQUESTS))
    assert [seen(answer) for answer in answers] == alone


def generate(folder: Path, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    """Greedy tokens of transformers' own loop, one prompt at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return [
        model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        for prompt in prompts
    ]


def check_greedy(engine: Engine, folder: Path, num_tokens: int = 24) -> None:
    """All prompts at once on few slots and in small chunks, against one at a time."""
    draw = random.Random(1)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 25))) for _ in range(8)]
    prompts = [engine.tokenizer.encode(text, add_special=True) for text in texts]
    sampling = SamplingParams(temperature=0.0, repeat_penalty=1.0)
    streams = [
        engine.submit(Request(prompt_ids=tuple(prompt), sampling=sampling, max_tokens=num_tokens))
        for prompt in prompts
    ]
    for stream, expected in zip(streams, generate(folder, prompts, num_tokens), strict=True):
        got = [token.token_id for delta in stream for token in delta.tokens]
        ended = [token for token in expected if token not in engine.tokenizer.eos_ids]
        # NOTE: a character that the limit would cut in half may be finished beyond it.
        assert got[: len(ended)] == ended and len(got) <= len(ended) + 3


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gemma2"])
def test_greedy_tokens_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    """No architecture is special-cased: the same code runs each, to the same tokens."""
    folder = save_tiny_model(tmp_path, family)
    config = EngineConfig(model=str(folder), num_slots=3, batch_size=16, context_size=256)
    with load_engine(config, progress=False) as engine:
        check_greedy(engine, folder)


def test_greedy_tokens_of_the_demo_model(engine: Engine) -> None:
    """The model that ships, too."""
    check_greedy(engine, Path(libertai_engine.__file__).parent / "demo_model")
