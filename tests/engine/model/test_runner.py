"""The runner equals transformers' own forward pass, however a prompt gets into its lane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from libertai_engine.config import PRECISIONS, Precision
from libertai_engine.errors import InvalidRequest, ModelLoadError
from libertai_engine.model.attention import use_slot_lanes
from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.kv_cache import KVCache
from libertai_engine.model.packing import pack
from libertai_engine.model.quantization import quantize, settle
from libertai_engine.model.runner import ModelRunner, evaluate
from tests.fakes import FAMILIES, VOCAB_SIZE, random_model

CONTEXT = 64
CHUNKS = ((7, 1), (1, 5), (1, 3), (5, 5), (1, 1), (10, 1), (1, 8), (4, 3))
"""Tokens that two conversations take in each step: prefill next to decode and to prefill."""


@dataclass(frozen=True)
class Pair:
    """The same weights twice: in transformers with its eager attention, and in our runner."""

    reference: Any
    runner: ModelRunner

    def expected(self, ids: list[int]) -> torch.Tensor:
        """`[len(ids), vocab]`"""
        with torch.inference_mode():
            logits: torch.Tensor = self.reference(
                torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)
            ).logits[0]
        return logits

    def run(self, slot: int, start: int, ids: list[int]) -> torch.Tensor:
        """`[vocab]` behind the last of `ids`."""
        return self.runner.run(Batch((Row(slot, start, tuple(ids), 1),)))[0]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def pair(request: pytest.FixtureRequest) -> Pair:
    reference = random_model(request.param)
    reference.set_attn_implementation("eager")
    runner = ModelRunner(
        random_model(request.param), num_slots=4, context_size=CONTEXT, device="cpu"
    )
    return Pair(reference, runner)


@pytest.fixture(scope="module")
def llama() -> ModelRunner:
    return ModelRunner(random_model(), num_slots=4, context_size=CONTEXT, device="cpu")


def tokens(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB_SIZE, (count,), generator=generator).tolist()


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_two_conversations_in_odd_chunks(pair: Pair) -> None:
    """Every step's logits are those of a whole forward pass over that conversation alone."""
    first, second = tokens(30, 1), tokens(30, 2)
    whole = pair.expected(first), pair.expected(second)
    start = [0, 0]
    for sizes in CHUNKS:
        end = [start[0] + sizes[0], start[1] + sizes[1]]
        rows = (
            Row(2, start[0], tuple(first[start[0] : end[0]]), 1),
            Row(1, start[1], tuple(second[start[1] : end[1]]), 1),
        )
        logits = pair.runner.run(Batch(rows))
        close(logits[0], whole[0][end[0] - 1])
        close(logits[1], whole[1][end[1] - 1])
        start = end


def test_a_prefix_copied_to_another_slot(pair: Pair) -> None:
    """A conversation goes on from a copied prefix as if it had been evaluated there."""
    ids = tokens(30, 3)
    pair.run(0, 0, ids[:20])
    pair.run(3, 0, tokens(CONTEXT, 4))
    pair.runner.copy_prefix(0, 3, 17)
    whole = pair.expected(ids)
    close(pair.run(3, 17, ids[17:24]), whole[23])
    close(pair.run(3, 24, ids[24:25]), whole[24])


def test_a_prefix_saved_and_loaded(pair: Pair) -> None:
    """A saved prefix outlives its slot and can be cut when it comes back."""
    ids = tokens(30, 5)
    pair.run(0, 0, ids[:25])
    prefix = pair.runner.save_prefix(0, 25)
    pair.run(0, 0, tokens(CONTEXT, 6))
    pair.runner.load_prefix(1, prefix, 21)
    close(pair.run(1, 21, ids[21:]), pair.expected(ids)[-1])
    assert prefix.length == 25 and prefix.nbytes == pair.runner.prefix_nbytes(25)
    assert prefix.nbytes * CONTEXT * 4 == pair.runner.cache_nbytes * 25


def test_a_shorter_conversation_takes_over_a_lane(pair: Pair) -> None:
    """What a longer conversation left behind in the lane is not seen."""
    pair.run(0, 0, tokens(CONTEXT, 7))
    ids = tokens(12, 8)
    close(pair.run(0, 0, ids[:9]), pair.expected(ids[:9])[-1])
    close(pair.run(0, 9, ids[9:]), pair.expected(ids)[-1])


def test_greedy_tokens_equal_generate(pair: Pair) -> None:
    """Twenty greedy tokens are those of transformers' `generate` with its own cache."""
    ids = tokens(11, 9)
    answer = pair.reference.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=None,
    )[0, len(ids) :].tolist()
    logits, ours = pair.run(1, 0, ids), []
    for position in range(len(ids), len(ids) + 20):
        ours.append(int(logits.argmax()))
        logits = pair.run(1, position, ours[-1:])
    assert ours == answer


def test_only_wanted_logits_come_back(llama: ModelRunner) -> None:
    """One row of logits for each row that asks, in row order; none for a prefill-only batch."""
    rows = [Row(slot, 0, tuple(tokens(4, slot)), int(slot != 1)) for slot in range(3)]
    logits = llama.run(Batch(tuple(rows)))
    assert logits.shape == (2, llama.vocab_size)
    close(logits[1], llama.run(Batch((rows[2],)))[0])
    assert llama.run(Batch((rows[1],))).shape == (0, llama.vocab_size)


def test_the_result_may_be_written_to(llama: ModelRunner) -> None:
    """Logits are float32 and a tensor of their own, free for the sampler to change."""
    logits = llama.run(Batch((Row(0, 0, (5,), 1),)))
    again = llama.run(Batch((Row(0, 0, (5,), 1),)))
    logits[0] -= 7.0
    assert logits.dtype == torch.float32
    close(logits + 7.0, again)


def test_bf16_stays_near_fp32() -> None:
    """The same weights in bf16 give logits near those in fp32, and lanes half as large."""
    exact = ModelRunner(random_model(), num_slots=2, context_size=CONTEXT, device="cpu")
    module = random_model().to(torch.bfloat16)
    half = ModelRunner(module, num_slots=2, context_size=CONTEXT, device="cpu")
    ids = tokens(20, 10)
    expected = exact.run(Batch((Row(0, 0, tuple(ids), 1),)))
    half.run(Batch((Row(1, 0, tuple(ids[:13]), 0), Row(0, 0, (3, 4), 0))))
    logits = half.run(Batch((Row(1, 13, tuple(ids[13:]), 1),)))
    assert half.cache_nbytes * 2 == exact.cache_nbytes
    assert logits.dtype == torch.float32
    assert (logits - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(
    "rows",
    [
        (),
        (Row(0, 0, (1,), 1), Row(0, 1, (1,), 1)),
        (Row(4, 0, (1,), 1),),
        (Row(0, CONTEXT - 1, (1, 2), 1),),
        (Row(0, 0, (VOCAB_SIZE,), 1),),
    ],
    ids=["no row", "slot twice", "slot unknown", "past the lane", "token unknown"],
)
def test_an_impossible_batch_is_our_own_mistake(llama: ModelRunner, rows: tuple[Row, ...]) -> None:
    """The scheduler never makes these; they stop before the model or a lane is touched."""
    with pytest.raises(AssertionError):
        llama.run(Batch(rows))


# NOTE: these two look at the numbers in tensors, which a device without memory does not have.
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"gpt2", "llama4_text"}))
def test_a_step_stays_on_its_device(family: str) -> None:
    """Indices, masks and lanes of another device than the CPU are made there, of the right type.

    A device without memory stands for a GPU: torch refuses to mix it with the CPU all the same.
    """
    check_steps(random_model(family).to("meta", torch.bfloat16))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_quantized_step_stays_on_its_device(precision: Precision) -> None:
    """What torch multiplies in the place of native kernels is there, too."""
    module = random_model(hidden_size=64, intermediate_size=128, head_dim=16).bfloat16()
    quantize(module, precision, progress=False)
    module = module.to("meta")
    settle(module, None)
    check_steps(module)


def check_steps(module: Any) -> None:
    use_slot_lanes(module)
    cache = KVCache(num_slots=4, context_size=CONTEXT)
    for rows in (
        (Row(1, 0, tuple(tokens(9, 1)), 1), Row(3, 0, tuple(tokens(4, 2)), 0)),
        (Row(1, 9, tuple(tokens(1, 3)), 1), Row(3, 4, tuple(tokens(3, 4)), 2)),
        (Row(3, 7, tuple(tokens(8, 5)), 8),),
    ):
        logits = evaluate(module, cache, pack(Batch(rows), module.device))
        wanted = sum(row.num_logits for row in rows)
        assert (logits.shape, logits.device.type) == ((wanted, VOCAB_SIZE), "meta")
    lanes = {(lane.device.type, lane.dtype) for pair in cache.lanes for lane in pair}
    assert lanes == {("meta", torch.bfloat16)}


def test_lanes_that_do_not_fit_are_a_load_error() -> None:
    """Too much context for the memory is told at the start, with the numbers asked for."""
    with pytest.raises(ModelLoadError, match="no memory for 4 slots"):
        ModelRunner(random_model(), num_slots=4, context_size=1 << 44, device="cpu")


def test_a_learned_position_table_bounds_the_context() -> None:
    """GPT-2 knows 512 positions here: one more is refused, not an index error while serving."""
    with pytest.raises(InvalidRequest, match="512 positions") as caught:
        ModelRunner(random_model("gpt2"), num_slots=1, context_size=513, device="cpu")
    assert caught.value.field == "context_size"
