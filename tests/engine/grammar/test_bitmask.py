"""A mask applied to logits, on the CPU's way and on every other device's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from libertai_engine.grammar.bitmask import apply_bitmask


@pytest.mark.parametrize("vocab", [1, 63, 64, 65, 400, 4096])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("missing", [0, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_only_allowed_ids_keep_their_logit(
    vocab: int, share: float, missing: int, dtype: torch.dtype
) -> None:
    """Whatever the sizes; ids beyond the mask are banned. float64 goes the other devices' way."""
    bits = np.random.default_rng(vocab).random(vocab) < share
    bits[max(0, vocab - missing) :] &= missing == 0
    mask = np.packbits(bits[: max(0, vocab - missing)], bitorder="little").tobytes()
    logits = torch.randn(vocab, dtype=dtype, generator=torch.Generator().manual_seed(1))
    wanted = logits.masked_fill(torch.from_numpy(~bits), -torch.inf)
    apply_bitmask(logits, mask)
    assert torch.equal(logits, wanted)


def test_a_row_of_a_batch_is_changed_in_place() -> None:
    """The rows beside it stay as they are; a mask longer than the row is cut."""
    logits = torch.zeros(3, 70)
    with torch.inference_mode():
        apply_bitmask(logits[1], b"\x05" + bytes(100))
    assert logits[1].isfinite().nonzero().flatten().tolist() == [0, 2]
    assert logits[[0, 2]].isfinite().all()
