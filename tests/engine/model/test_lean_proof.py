"""What a native step claims of a module is refused if it is a little off, whatever the precision.

Where this machine has no compiler, nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from libertai_engine.config import Dtype, EngineConfig
from libertai_engine.kernels.library import Library, native
from libertai_engine.model.attention import use_slot_lanes
from libertai_engine.model.decoder_parts import take_apart
from libertai_engine.model.decoder_questions import NotLean
from libertai_engine.model.lean_proof import begin, prove
from libertai_engine.model.lean_twin import VOCAB, twin_of
from libertai_engine.model.loader import load_model
from libertai_engine.model.runner import ModelRunner, evaluate
from tests.fakes import random_model, save_tiny_model

pytestmark = pytest.mark.skipif(
    not isinstance(native(), Library), reason="no native kernels on this machine"
)

CONTEXT = 64
DTYPES = [torch.float32, torch.bfloat16]
SCALES = (
    *("score_scale", "residual_scale", "embedding_scale", "logit_scale"),
    *("epsilon", "frequencies", "rotary_scale"),
)
GRANITE = {
    "attention_multiplier": 0.015625,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
}


def library() -> Library:
    found = native()
    assert isinstance(found, Library)
    return found


def refusal(module: Any) -> str:
    """Why a module's steps are not native."""
    runner = ModelRunner(module, num_slots=1, context_size=CONTEXT, device="cpu")
    return str(runner.why_not_lean)


@pytest.mark.parametrize("off", [0.98, 1.02])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", ["llama", "granite", "gemma"])
def test_scales_that_are_off(family: str, dtype: torch.dtype, scale: str, off: float) -> None:
    """Two per cent show in any scale, while the right ones are agreed to."""
    module = random_model(family, **(GRANITE if family == "granite" else {})).to(dtype)
    use_slot_lanes(module)
    begun = begin(module, evaluate)
    parts = take_apart(module, begun.manners, CONTEXT)
    prove(begun, library(), parts, evaluate)
    claimed = replace(parts, **{scale: getattr(parts, scale) * off})
    with pytest.raises(NotLean, match="differ from the module's"):
        prove(begin(module, evaluate), library(), claimed, evaluate)


PLACES: dict[str, Callable[[Any], nn.Module]] = {
    "embeddings": lambda module: module.model.embed_tokens,
    "queries": lambda module: module.model.layers[1].self_attn.q_proj,
    "values": lambda module: module.model.layers[0].self_attn.v_proj,
    "a block": lambda module: module.model.layers[1].mlp,
    "a norm": lambda module: module.model.layers[1].post_attention_layernorm,
    "logits": lambda module: module.lm_head,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
def test_scales_that_nothing_tells_of(dtype: torch.dtype, place: str) -> None:
    """A module that multiplies somewhere by 1.02 is found out, though its parts look plain."""
    module = random_model().to(dtype)
    assert refusal(module) == "None"
    PLACES[place](module).register_forward_hook(lambda *given: given[-1] * 1.02)
    assert "norm" in refusal(module) or "differ from the module's" in refusal(module)


class OtherNorm(nn.Module):
    """An RMS norm whose epsilon is not quite what it tells."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = norm.weight, norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        mean = wide.square().mean(-1, keepdim=True)
        return (wide * (mean + 1.02 * self.variance_epsilon).rsqrt() * self.weight).to(x.dtype)


@pytest.mark.parametrize("place", ["input_layernorm", "self_attn.q_norm"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
def test_another_epsilon(dtype: torch.dtype, place: str) -> None:
    """Each norm is asked, with numbers so small that its epsilon counts."""
    module = random_model("qwen3").to(dtype)
    owner, _, name = place.rpartition(".")
    part: Any = module.model.layers[1].get_submodule(owner)
    setattr(part, name, OtherNorm(getattr(part, name)))
    assert refusal(module) == "norms that are not RMS norms"


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
def test_another_theta(dtype: torch.dtype) -> None:
    """Angles are asked for, too: those of another base are refused."""
    module = random_model().to(dtype)
    rotary = module.model.rotary_emb
    theta = module.config.rope_parameters["rope_theta"]
    size = 2 * len(rotary.inv_freq)
    shown = rotary.inv_freq
    turned = (1.02 * theta) ** (-torch.arange(0, size, 2) / size)
    real = rotary.forward

    def forward(*given: Any, **named: Any) -> Any:
        rotary.inv_freq = turned
        try:
            return real(*given, **named)
        finally:
            rotary.inv_freq = shown

    rotary.forward = forward
    assert refusal(module) == "rotary angles of another form"


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_quantized_modules(tmp_path: Path, dtype: Dtype) -> None:
    """Their own tolerance is large; a twin has plain weights."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    folder = save_tiny_model(tmp_path, **sizes)
    module = load_model(EngineConfig(model=str(folder), dtype=dtype), progress=False).module
    assert refusal(module) == "None"
    module.model.layers[1].mlp.register_forward_hook(lambda *given: given[-1] * 1.02)
    assert "differ from the module's" in refusal(module)


def test_a_twin_is_small() -> None:
    """Of a module's weights, it has none but what rows and columns its structure needs."""
    module = random_model(num_hidden_layers=9, tie_word_embeddings=True)
    use_slot_lanes(module)
    parts = take_apart(module, begin(module, evaluate).manners, CONTEXT)
    before = {name: each.clone() for name, each in module.state_dict().items()}
    twin = twin_of(module.bfloat16(), parts)
    assert {each.dtype for each in twin.parameters()} == {torch.float32}
    assert len(twin.model.layers) == 4 and len(module.model.layers) == 9
    assert twin.lm_head.weight.shape == (VOCAB, module.config.hidden_size)
    after = module.float().state_dict()
    assert all(torch.allclose(each, after[name], rtol=1e-2) for name, each in before.items())


def test_a_twin_leaves_the_memory_of_its_module_alone() -> None:
    """Weights may lie in one piece: a copy of the gains among them is no copy of all."""
    module = random_model()
    piece, begin_at = torch.zeros(1 << 20), 0
    for part in module.modules():
        for name, each in list(part.named_parameters(recurse=False)):
            own = piece[begin_at : begin_at + each.numel()].view(each.shape).copy_(each.detach())
            setattr(part, name, torch.nn.Parameter(own, requires_grad=False))
            begin_at += each.numel()
    use_slot_lanes(module)
    parts = take_apart(module, begin(module, evaluate).manners, CONTEXT)
    twin = twin_of(module, parts)
    tensors = [*twin.parameters(), *twin.buffers()]
    assert max(each.untyped_storage().nbytes() for each in tensors) < piece.nbytes
