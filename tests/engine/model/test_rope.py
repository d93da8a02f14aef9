"""With frequencies that hang on the length, a row's logits still depend on that row alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.runner import ModelRunner
from tests.fakes import VOCAB_SIZE, random_model

TRAINED, CONTEXT = 16, 48
FAMILY = {"dynamic": "llama", "longrope": "phi3"}
ROPES: dict[str, dict[str, Any]] = {
    "dynamic": {
        "max_position_embeddings": TRAINED,
        "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
    },
    "longrope": {
        "max_position_embeddings": CONTEXT,
        "original_max_position_embeddings": TRAINED,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "original_max_position_embeddings": TRAINED,
            "factor": CONTEXT / TRAINED,
            "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
            "long_factor": [1.0, 2.0, 3.0, 5.0, 8.0, 9.0],
        },
    },
}


def reference(rope: str, ids: list[int]) -> torch.Tensor:
    """`[len(ids), vocab]` from a fresh transformers model."""
    model = random_model(FAMILY[rope], **ROPES[rope])
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([ids])).logits[0]
    return logits


def tokens(count: int) -> list[int]:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(3, VOCAB_SIZE, (count,), generator=generator).tolist()


def runner(rope: str, context_size: int) -> ModelRunner:
    module = random_model(FAMILY[rope], **ROPES[rope])
    return ModelRunner(module, num_slots=2, context_size=context_size, device="cpu")


@pytest.mark.parametrize("rope", sorted(ROPES))
def test_a_full_context_equals_transformers(rope: str) -> None:
    """Frequencies are those transformers uses for a sequence that fills the context."""
    ids = tokens(CONTEXT)
    ours = runner(rope, CONTEXT)
    for start in range(0, CONTEXT, 12):
        row = Row(1, start, tuple(ids[start : start + 12]), 1)
        logits = ours.run(Batch((row,)))
    torch.testing.assert_close(logits[0], reference(rope, ids)[-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("rope", sorted(ROPES))
def test_a_context_within_the_trained_length_changes_nothing(rope: str) -> None:
    """A slot no longer than the trained length keeps the trained frequencies."""
    ids = tokens(TRAINED)
    logits = runner(rope, TRAINED).run(Batch((Row(0, 0, tuple(ids), 1),)))
    torch.testing.assert_close(logits[0], reference(rope, ids)[-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("rope", sorted(ROPES))
def test_a_long_neighbour_does_not_turn_a_short_row(rope: str) -> None:
    """The logits of a short row are the same before, beside and after a row past the length."""
    short, long = tuple(tokens(5)), tuple(tokens(40))
    ours = runner(rope, CONTEXT)
    before = ours.run(Batch((Row(0, 0, short, 1),)))[0]
    beside = ours.run(Batch((Row(0, 0, short, 1), Row(1, 0, long, 1))))[0]
    after = ours.run(Batch((Row(0, 0, short, 1),)))[0]
    torch.testing.assert_close(beside, before, atol=1e-5, rtol=0)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
