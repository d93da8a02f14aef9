"""Requests at the edge of what an engine holds: no request stops the thread that serves all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_engine.errors import GenerationFailed, InvalidRequest
from libertai_engine.model.runner import ModelRunner
from libertai_engine.sampling_params import SamplingParams
from libertai_engine.sequence import Finish, FinishReason, Request
from tests.fakes import random_model

ENDLESS = SamplingParams(temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def small(tiny_model: Path) -> Iterator[Engine]:
    config = EngineConfig(model=str(tiny_model), num_slots=2, context_size=16)
    with load_engine(config, progress=False) as engine:
        yield engine


def finish_of(engine: Engine, request: Request) -> Finish:
    finish = list(engine.submit(request))[-1].finish
    assert finish is not None
    return finish


@pytest.mark.parametrize("num_keep", [-9, 11, 12, 13, 14, 15, 1000])
def test_a_full_context_can_always_be_shifted(small: Engine, num_keep: int) -> None:
    """However many tokens are to be kept, some go, and the answer has its length."""
    request = Request(
        prompt_ids=(5, 6, 7), sampling=ENDLESS, max_tokens=30, num_keep=num_keep, can_shift=True
    )
    assert finish_of(small, request).num_generated in range(30, 34)


def test_a_context_holds_at_least_four_tokens(tiny_model: Path) -> None:
    """A smaller one could not be shifted."""
    with pytest.raises(InvalidRequest, match="context_size"):
        EngineConfig(model=str(tiny_model), context_size=3)
    config = EngineConfig(model=str(tiny_model), num_slots=1, context_size=4)
    with load_engine(config, progress=False) as engine:
        request = Request(prompt_ids=(5,), sampling=ENDLESS, max_tokens=9, can_shift=True)
        assert finish_of(engine, request).num_generated in range(9, 13)


def test_half_a_character_at_the_end_of_the_context(small: Engine) -> None:
    """A model that cannot shift ends there, though an answer may finish its last character."""
    runner = ModelRunner(random_model("gpt2"), num_slots=1, context_size=16, device="cpu")
    (first_byte,) = (each for each in range(400) if small.tokenizer.token_bytes(each) == b"\xc3")
    sampling = SamplingParams(temperature=0.0, repeat_penalty=1.0, logit_bias=((first_byte, 1e4),))
    with Engine(runner, small.tokenizer, EngineConfig(num_slots=1), None) as fixed:
        request = Request(prompt_ids=(5,) * 6, sampling=sampling, max_tokens=10, can_shift=True)
        finish = finish_of(fixed, request)
        assert (finish.reason, finish.num_generated) == (FinishReason.LIMIT, 10)
        assert not finish.truncated and fixed.is_alive


class Unshiftable(ModelRunner):
    """A real runner that has no memory to move keys in, after it has moved some."""

    def shift(self, slot: int, start: int, count: int, length: int) -> None:
        super().shift(slot, start, count, length)
        raise RuntimeError("out of memory")


def test_a_failed_shift_hurts_only_its_request(small: Engine) -> None:
    """Its slot is free again, and nothing of what may have been moved is reused."""
    assert small.model is not None
    runner = Unshiftable(small.model.module, num_slots=1, context_size=16, device="cpu")
    with Engine(runner, small.tokenizer, EngineConfig(num_slots=1), small.model) as engine:
        full = Request(prompt_ids=(5,) * 12, sampling=ENDLESS, max_tokens=9, can_shift=True)
        with pytest.raises(GenerationFailed):
            list(engine.submit(full))
        assert engine.load.num_idle_slots == 1
        assert finish_of(engine, replace(full, max_tokens=1)).num_cached == 1


def test_more_prompts_than_the_queue_holds_can_never_be_answered(small: Engine) -> None:
    """So trying again later is no good advice, whereas a full queue empties."""
    config = EngineConfig(num_slots=1, max_queue=1)
    assert small.model is not None
    runner = ModelRunner(small.model.module, num_slots=1, context_size=16, device="cpu")
    with Engine(runner, small.tokenizer, config, small.model) as engine:
        request = Request(prompt_ids=(5, 6), sampling=ENDLESS, max_tokens=2)
        both = list(engine.submit(request, replace(request, index=1)))
        assert sum(delta.finish is not None for delta in both) == 2
        with pytest.raises(InvalidRequest, match="at most 2"):
            engine.submit(*(replace(request, index=index) for index in range(3)))


def test_nothing_asked_is_nothing_answered(small: Engine) -> None:
    """A reader of no requests does not wait for ever."""
    assert list(small.submit()) == []
