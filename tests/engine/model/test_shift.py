"""Cached keys at other positions: turned, not computed again, or honestly impossible."""

from __future__ import annotations

import pytest
import torch

from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.runner import ModelRunner
from tests.fakes import random_model

TURNED = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "mixtral"]
INTERLEAVED = ["cohere"]
IMPOSSIBLE = ["gpt2", "deepseek_v3", "llama4_text"]


def runner_of(family: str, dtype: torch.dtype = torch.float32, **changes: int) -> ModelRunner:
    module = random_model(family, **changes).to(dtype)
    return ModelRunner(module, num_slots=2, context_size=64, device="cpu")


@pytest.mark.parametrize("family", [*TURNED, *INTERLEAVED])
def test_rotary_models_can_shift(family: str) -> None:
    """Found out by trying: halves or pairs, whole or part of a head, one angle or two."""
    assert runner_of(family).can_shift


@pytest.mark.parametrize("family", IMPOSSIBLE)
def test_other_positions_cannot(family: str) -> None:
    """Learned positions, compressed keys, positions in the scores: no shift is pretended."""
    assert not runner_of(family).can_shift


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "cohere"])
def test_a_shifted_lane_is_the_lane_of_the_rest(family: str, dtype: torch.dtype) -> None:
    """With one layer no key knows of other tokens, so a shift must give what evaluating gives."""
    runner = runner_of(family, dtype, num_hidden_layers=1)
    tokens = tuple(range(10, 50))
    runner.run(Batch((Row(0, 0, tokens, 0),)))
    runner.shift(0, 3, 17, 40)
    shifted = runner.run(Batch((Row(0, 23, (99,), 1),)))
    rest = (*tokens[:3], *tokens[20:], 99)
    expected = runner.run(Batch((Row(1, 0, rest, 1),)))
    exact = dtype == torch.float32
    torch.testing.assert_close(
        shifted, expected, rtol=1e-4 if exact else 0.1, atol=1e-4 if exact else 0.1
    )


def test_shifting_twice_is_shifting_once() -> None:
    """The error of turning does not add up: 5 and then 12 positions are 17."""
    runner = runner_of("llama", num_hidden_layers=1)
    tokens = tuple(range(10, 50))
    for slot in (0, 1):
        runner.run(Batch((Row(slot, 0, tokens, 0),)))
    runner.shift(0, 3, 5, 40)
    runner.shift(0, 3, 12, 35)
    runner.shift(1, 3, 17, 40)
    twice = runner.run(Batch((Row(0, 23, (99,), 1),)))
    once = runner.run(Batch((Row(1, 23, (99,), 1),)))
    torch.testing.assert_close(twice, once, rtol=1e-5, atol=1e-5)
