"""Codes and scales stand for weights as well as so few bits can."""

from __future__ import annotations

import pytest
import torch

from libertai_engine.kernels.packing import GROUP, codes_of, pack_int4, pack_int8, unpack
from libertai_engine.model.rounding import Rounded, _largest, round_to_int4, round_to_int8

SHAPES = [(1, 1), (16, 32), (5, 48), (33, 100), (3000, 200)]


def weights(rows: int, cols: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows + cols)
    return torch.randn(rows, cols, generator=generator) * 0.02


def numbers(rounded: Rounded, cols: int) -> torch.Tensor:
    """What the codes stand for, `[rows, cols]`."""
    scale = rounded.scale.float()
    scale = scale[:, None] if scale.ndim == 1 else scale.repeat_interleave(GROUP, 1)[:, :cols]
    return rounded.codes.float() * scale


def plain_int4(weight: torch.Tensor) -> torch.Tensor:
    """The usual way: the largest number of a group gets the code 7."""
    groups = weight.view(-1, GROUP)
    scale = groups.abs().amax(1, keepdim=True) / 7
    return ((groups / scale).round() * scale).view(weight.shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_off_by_half_a_step_at_most(shape: tuple[int, int]) -> None:
    """A step is a 127th of the row's largest number, which is exact up to float32's rounding."""
    weight = weights(*shape)
    rounded = round_to_int8(weight)
    assert rounded.codes.dtype == torch.int8 and rounded.codes.abs().max() == 127
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((numbers(rounded, shape[1]) - weight).abs() <= step * 0.5001).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_int4_is_better_than_the_plain_way(shape: tuple[int, int]) -> None:
    """Never more than a step off, and in the mean far closer than with the plain scale."""
    weight = weights(*shape)
    rounded = round_to_int4(weight)
    assert rounded.codes.min() >= -8 and rounded.codes.max() <= 7
    apart = (numbers(rounded, shape[1]) - weight).norm() / weight.norm()
    assert apart < 0.085
    if shape[1] % GROUP == 0:
        assert apart < 0.9 * (plain_int4(weight) - weight).norm() / weight.norm()


@pytest.mark.parametrize("round_to", [round_to_int8, round_to_int4])
def test_the_edges(round_to: type[Rounded]) -> None:
    """Zeros stay zeros, numbers that codes can say stay as they are, signs are kept."""
    zeros = torch.zeros(4, 64)
    assert torch.equal(numbers(round_to(zeros), 64), zeros)
    exact = torch.arange(-8, 8).repeat(3, 4).float() * 0.25
    if round_to is round_to_int4:
        assert torch.equal(numbers(round_to(exact), 64), exact)
    lonely = torch.zeros(1, 64)
    lonely[0, 3], lonely[0, 40] = 1.0, -1.0
    torch.testing.assert_close(numbers(round_to(lonely), 64), lonely, rtol=1e-3, atol=0)


def test_bf16_and_transposed_weights_round_like_their_copies() -> None:
    """What is rounded depends on the numbers alone."""
    weight = weights(64, 96).bfloat16()
    for round_to in (round_to_int8, round_to_int4):
        first, second = round_to(weight.float()), round_to(weight.t().contiguous().t())
        assert torch.equal(first.codes, second.codes)
        assert torch.equal(first.scale, second.scale)


@pytest.mark.parametrize("shape", SHAPES)
def test_packing_loses_nothing(shape: tuple[int, int]) -> None:
    """Codes and scales come back from their packed form, exactly."""
    weight = weights(*shape)
    for round_to, pack in ((round_to_int8, pack_int8), (round_to_int4, pack_int4)):
        rounded = round_to(weight)
        packed = pack(rounded.codes, rounded.scale)
        codes, scale = codes_of(packed)
        assert torch.equal(codes, rounded.codes)
        assert torch.equal(scale, rounded.scale)
        assert torch.equal(unpack(packed), numbers(rounded, shape[1]))


def test_the_sign_of_the_largest_number_is_that_of_the_first() -> None:
    """As if its place were asked for: numbers of one size with two signs are common in bf16."""
    groups = (torch.randn(5000, GROUP) * 3).round()  # full of counterparts
    groups[0] = 0
    expected = groups.gather(1, groups.abs().argmax(1, keepdim=True))
    assert torch.equal(_largest(groups), expected)
