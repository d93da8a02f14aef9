"""A native step equals the module's own, whatever the family, the shape and the neighbours.

Where this machine has no compiler, what is left is that the module's own forward serves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from libertai_engine.config import Dtype, EngineConfig
from libertai_engine.kernels.library import Library, native
from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.lean import MAX_TOKENS
from libertai_engine.model.loader import load_model
from libertai_engine.model.runner import ModelRunner
from tests.fakes import VOCAB_SIZE, random_model, save_tiny_model

CONTEXT = 64
LEAN = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "granite", "phi3")
REASONS = {
    "gemma2": "soft caps",
    "gemma3_text": "weights without a place",
    "gpt2": "another structure",
    "mixtral": "another structure",
    "gpt_oss": "soft caps or sinks",
    "deepseek_v3": "another structure",
    "llama4_text": "another structure",
}
needs_compiler = pytest.mark.skipif(
    not isinstance(native(), Library), reason="no native kernels on this machine"
)


def both(module: Any, *, context_size: int = CONTEXT) -> tuple[ModelRunner, ModelRunner]:
    """A runner with native steps, and one whose steps are the module's own."""
    options: dict[str, Any] = {"num_slots": 4, "context_size": context_size, "device": "cpu"}
    lean = ModelRunner(module, **options)
    assert lean.why_not_lean is None
    return lean, ModelRunner(module, **options, kernels="torch")


def tokens(count: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, VOCAB_SIZE, (count,), generator=generator).tolist())


def apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", LEAN)
def test_mixed_batches_equal_the_module(family: str, dtype: torch.dtype) -> None:
    """Decode next to drafts and to prefill, behind prefixes that the module evaluated."""
    runners = both(random_model(family).to(dtype))
    batches = [
        (Row(0, 0, tokens(20, 0), 1), Row(2, 0, tokens(7, 1), 0)),
        (Row(2, 7, tokens(1, 2), 1), Row(0, 20, tokens(1, 3), 1)),
        (Row(0, 21, tokens(5, 4), 5), Row(3, 0, tokens(9, 5), 1), Row(2, 8, tokens(1, 6), 0)),
        (Row(3, 9, tokens(1, 7), 1), Row(0, 26, tokens(1, 8), 1), Row(2, 9, tokens(1, 9), 1)),
    ]
    for rows in batches:
        ours, theirs = (runner.run(Batch(rows)) for runner in runners)
        assert apart(ours, theirs) < (1e-5 if dtype == torch.float32 else 0.05)


@needs_compiler
@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_quantized_weights(tmp_path: Path, family: str, dtype: Dtype) -> None:
    """Steps read packed weights where they are, fused or not; activations are rounded alike."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    folder = save_tiny_model(tmp_path, family, **sizes)
    module = load_model(EngineConfig(model=str(folder), dtype=dtype), progress=False).module
    lean, plain = both(module)
    rows = (Row(0, 0, tokens(9, 1), 2), Row(2, 0, tokens(4, 2), 1))
    assert apart(lean.run(Batch(rows)), plain.run(Batch(rows))) < 0.1


@needs_compiler
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    """Sizes that fill no vector, any number of heads, biases or not, tied or not."""
    kv_heads = data.draw(st.integers(1, 3))
    heads = kv_heads * data.draw(st.integers(1, 10))
    module = random_model(
        data.draw(st.sampled_from(["llama", "qwen2", "qwen3"])),
        hidden_size=heads * data.draw(st.integers(1, 9)),
        intermediate_size=data.draw(st.integers(1, 90)),
        num_hidden_layers=data.draw(st.integers(1, 3)),
        num_key_value_heads=kv_heads,
        num_attention_heads=heads,
        head_dim=2 * data.draw(st.integers(1, 40)),
        attention_bias=data.draw(st.booleans()),
        tie_word_embeddings=data.draw(st.booleans()),
    )
    lean, plain = both(module)
    rows = (Row(1, 0, tokens(data.draw(st.integers(1, 12)), 1), 1), Row(0, 0, tokens(3, 2), 2))
    assert apart(lean.run(Batch(rows)), plain.run(Batch(rows))) < 1e-4


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("head_dim", [64, 80])
@pytest.mark.parametrize("context_size", [1100, 12000])
def test_long_lanes(dtype: torch.dtype, head_dim: int, context_size: int) -> None:
    """Several chunks of positions, some full and some begun, for one token and for several.

    In longer contexts, chunks are put together in several steps.
    """
    module = random_model(head_dim=head_dim, num_attention_heads=6, initializer_range=0.1)
    lean, plain = both(module.to(dtype), context_size=context_size)
    prompt, more = tokens(1021, 1), tokens(13, 2)
    for runner in (lean, plain):
        runner.run(Batch((Row(1, 0, prompt, 0), Row(2, 0, prompt[:255], 0))))
    for rows in (
        (Row(1, 1021, more[:1], 1), Row(2, 255, more[:1], 1)),
        (Row(1, 1022, more, 13), Row(2, 256, more[:1], 1)),
    ):
        ours, theirs = (runner.run(Batch(rows)) for runner in (lean, plain))
        assert apart(ours, theirs) < (1e-5 if dtype == torch.float32 else 0.05)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_neighbours_and_threads_change_nothing(dtype: torch.dtype) -> None:
    """Bit for bit: a token alone, among others, in pieces or at once, on one thread or three."""
    runner, _ = both(random_model(head_dim=32).to(dtype), context_size=600)
    ids = tokens(16, 3)
    for slot in range(4):
        runner.run(Batch((Row(slot, 0, tokens(500, 4), 0),)))
    whole = runner.run(Batch((Row(0, 500, ids, 16),)))
    threads = torch.get_num_threads()
    try:
        for place, each in enumerate(ids):
            torch.set_num_threads(1 + place % 3)
            others = Row(2, 500, tokens(1 + place % 5, 5), 1)
            rows = (Row(1, 500 + place, (each,), 1), others)
            assert torch.equal(runner.run(Batch(rows))[0], whole[place])
    finally:
        torch.set_num_threads(threads)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_calls_change_nothing(dtype: torch.dtype) -> None:
    """Bit for bit: answers of more tokens than one call has, cut where it is full, or alone."""
    runner, _ = both(random_model().to(dtype), context_size=2 * MAX_TOKENS)
    counts = (MAX_TOKENS // 2, MAX_TOKENS, 3, MAX_TOKENS + 1)
    wanted = (1, MAX_TOKENS // 2 + 5, 0, MAX_TOKENS + 1)
    rows = tuple(
        Row(slot, 0, tokens(count, slot), number, num_new=0)
        for slot, (count, number) in enumerate(zip(counts, wanted, strict=True))
    )
    together = runner.run(Batch(rows))
    assert torch.equal(together, torch.cat([runner.run(Batch((row,))) for row in rows]))


@needs_compiler
def test_prefixes_are_the_same_lanes() -> None:
    """What a native step wrote can be copied, saved, loaded and shifted as the module's can."""
    lean, plain = both(random_model())
    ids = tokens(24, 6)
    for runner in (lean, plain):
        runner.run(Batch((Row(0, 0, ids[:12], 0),)))
        runner.copy_prefix(0, 3, 10)
        runner.run(Batch((Row(3, 10, ids[10:22], 0),)))
        runner.load_prefix(1, runner.save_prefix(3, 22), 22)
        runner.shift(1, 2, 8, 22)
    ours, theirs = (runner.run(Batch((Row(1, 14, ids[22:], 2),))) for runner in (lean, plain))
    assert apart(ours, theirs) < 1e-4


@needs_compiler
def test_larger_steps_are_the_modules() -> None:
    """Beyond `MAX_TOKENS`, nothing changes but who computes."""
    lean, plain = both(random_model(), context_size=2 * MAX_TOKENS)
    for count in (MAX_TOKENS, MAX_TOKENS + 1):
        rows = (Row(0, 0, tokens(count, 7), 1),)
        assert apart(lean.run(Batch(rows)), plain.run(Batch(rows))) < 1e-5


@needs_compiler
@pytest.mark.parametrize("family", REASONS)
def test_other_models_say_why_they_are_not_lean(family: str) -> None:
    """Attention or structure that a native step does not have; the module serves."""
    runner = ModelRunner(random_model(family), num_slots=1, context_size=CONTEXT, device="cpu")
    assert REASONS[family] in str(runner.why_not_lean)


@needs_compiler
@pytest.mark.parametrize("window", [5, 256, 300, 700])
@pytest.mark.parametrize("context_size", [700, 9000])
def test_sliding_windows(window: int, context_size: int) -> None:
    """A token sees as many positions as the window is long, chunks before them not at all."""
    lean, plain = both(random_model("mistral", sliding_window=window), context_size=context_size)
    prompt, more = tokens(600, 1), tokens(9, 2)
    for runner in (lean, plain):
        runner.run(Batch((Row(1, 0, prompt, 0), Row(2, 0, prompt[:254], 0))))
    rows = (Row(1, 600, more, 9), Row(2, 254, more[:4], 4))
    assert apart(lean.run(Batch(rows)), plain.run(Batch(rows))) < 1e-5


@needs_compiler
def test_the_proof_finds_what_the_structure_does_not_show() -> None:
    """A forward that does more than its parts say is refused by its results."""
    module = random_model()
    module.model.layers[1].mlp.register_forward_hook(lambda *given: given[-1] * 1.01)
    runner = ModelRunner(module, num_slots=1, context_size=CONTEXT, device="cpu")
    assert "differ from the module's" in str(runner.why_not_lean)


@needs_compiler
def test_soft_caps_of_logits_are_refused() -> None:
    """Also where the logits of the proof are too small to show them."""
    module = random_model()
    module.lm_head.register_forward_hook(lambda *given: 30 * torch.tanh(given[-1] / 30))
    module.config.final_logit_softcapping = 30.0
    runner = ModelRunner(module, num_slots=1, context_size=CONTEXT, device="cpu")
    assert runner.why_not_lean == "soft caps of logits"


@needs_compiler
def test_weights_without_a_place_are_refused() -> None:
    """A parameter that no known part owns might matter, even if the probe does not show it."""
    module = random_model()
    module.model.layers[0].self_attn.register_parameter("more", torch.nn.Parameter(torch.ones(1)))
    runner = ModelRunner(module, num_slots=1, context_size=CONTEXT, device="cpu")
    assert "weights without a place: layers.0.self_attn.more" in str(runner.why_not_lean)


def test_torch_kernels_can_be_asked_for() -> None:
    """With `kernels="torch"` every step is the module's."""
    runner = ModelRunner(
        random_model(), num_slots=1, context_size=CONTEXT, device="cpu", kernels="torch"
    )
    assert runner.why_not_lean == "torch's kernels were asked for"
