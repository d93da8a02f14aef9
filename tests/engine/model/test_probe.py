"""A model that slot lanes cannot serve is refused by running it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from libertai_engine.errors import ModelLoadError
from libertai_engine.model.probe import check_model
from tests.fakes import FAMILIES, random_model

MAMBA = {"state_size": 4, "expand": 2, "time_step_rank": 4}
BART = {"decoder_layers": 2, "decoder_ffn_dim": 96, "decoder_attention_heads": 4}
LFM2 = {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("mamba", MAMBA, "attention of its own"),
    ("lfm2", LFM2, "conv_state"),
    ("bert", {}, "not causal"),
    ("bloom", {"n_layer": 2, "n_head": 4}, "cannot run here"),
    ("stablelm", {"hidden_size": 64}, "not told about the rows"),
    ("bart", BART, "does not keep the requests of one batch apart"),
]
"""Family, its sizes, what the error says: recurrent, hybrid, bidirectional, ALiBi, an attention
that gets no keyword arguments, and positions counted from the length of the cache."""


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_families_that_fit_pass(family: str, dtype: torch.dtype) -> None:
    """Rounding, also in bf16, is far from what the check refuses."""
    check_model(random_model(family).to(dtype))


@pytest.mark.parametrize(("family", "sizes", "message"), REFUSED, ids=[r[0] for r in REFUSED])
def test_families_that_do_not_fit_are_refused(
    family: str, sizes: dict[str, Any], message: str
) -> None:
    """The error names the model type and the reason."""
    with pytest.raises(ModelLoadError, match=message) as caught:
        check_model(random_model(family, **sizes))
    assert f"`{family}`" in str(caught.value)


def test_broken_weights_are_told() -> None:
    """A not-a-number in the weights is found before the first request."""
    module = random_model()
    with torch.no_grad():
        module.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(ModelLoadError, match="NaN"):
        check_model(module)
