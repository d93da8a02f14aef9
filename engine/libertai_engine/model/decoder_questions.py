"""What a decoder's small parts do, found out by asking them and not by their names.

In: norms, activations, a rotary embedding. Out: the numbers that a native step needs to do the
same, or `NotLean` where it cannot.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from libertai_engine.model.rope import rotaries


class NotLean(Exception):
    """The native step is not for this model; the message says why, for people."""


def gain_of(norm: Any) -> Tensor:
    """What an RMS norm multiplies by: its weight, or one more. Raises `NotLean`."""
    weight, epsilon = getattr(norm, "weight", None), epsilon_of(norm)
    if not isinstance(weight, Tensor) or weight.ndim != 1:
        raise NotLean("norms without a weight")
    size = weight.shape[0]
    # So small that epsilon is half of all, with a mean that is not zero, which must not matter.
    x = (torch.linspace(-1, 2, size).cos() + 0.5) * epsilon**0.5  # [hidden], fp32 as the answer is
    plain = x * torch.rsqrt(x.square().mean() + epsilon)
    answer = norm(x[None])[0].float()
    for gain in (weight.detach().float(), 1 + weight.detach().float()):
        if torch.allclose(plain * gain, answer, rtol=1e-3, atol=1e-5):
            return gain.clone()
    raise NotLean("norms that are not RMS norms")


def epsilon_of(norm: Any) -> float:
    """What a norm says its epsilon is; `gain_of` finds out. Raises `NotLean`."""
    for name in ("variance_epsilon", "eps"):
        found = getattr(norm, name, None)
        if isinstance(found, float) and found > 0:
            return found
    raise NotLean("norms that tell no epsilon")


def activation_of(mlp: Any) -> int:
    """Which of `enum Activation` a feed-forward block has. Raises `NotLean`."""
    act = getattr(mlp, "act_fn", None) or getattr(mlp, "activation_fn", None)
    if act is None:
        raise NotLean("a feed-forward block of another structure")
    x = torch.linspace(-6, 6, 64)
    known = (functional.silu(x), functional.gelu(x, approximate="tanh"), functional.gelu(x))
    answer = act(x)
    for index, expected in enumerate(known):
        # The two forms of GELU are 4e-4 apart.
        if torch.allclose(answer, expected, rtol=0, atol=1e-5):
            return index
    raise NotLean("an activation that is neither SiLU nor GELU")


def rotation_of(module: PreTrainedModel, head_dim: int, context_size: int) -> tuple[Tensor, float]:
    """Radians a position `[rotary_dim / 2]`, and what cosine and sine are multiplied by."""
    found: list[Any] = list(rotaries(module))
    if len(found) != 1 or not isinstance(getattr(found[0], "inv_freq", None), Tensor):
        raise NotLean("positions that are not one rotation")
    rotary = found[0]
    frequencies = rotary.inv_freq.detach().float().clone()
    scale = float(getattr(rotary, "attention_scaling", 1.0))
    positions = torch.tensor([0, 1, 17, context_size // 2, context_size - 1])
    angles = positions[:, None].float() * frequencies  # [position, rotary_dim / 2]
    expected = torch.cat((angles, angles), dim=-1)
    try:
        cosines, sines = rotary(torch.zeros(1, dtype=torch.float32), positions[None])
        is_same = torch.allclose(cosines[0], expected.cos() * scale, atol=1e-4) and torch.allclose(
            sines[0], expected.sin() * scale, atol=1e-4
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise NotLean("rotary angles of another form") from error
    if not is_same or 2 * frequencies.numel() > head_dim:
        raise NotLean("rotary angles of another form")
    return frequencies, scale
