"""Rows of a batch end up end to end, each token with its own position and lane."""

from __future__ import annotations

import torch

from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.packing import pack

CPU = torch.device("cpu")


def test_rows_are_laid_end_to_end() -> None:
    """Tokens keep the order of the rows; positions and lanes are those of each token's row."""
    packed = pack(Batch((Row(2, 5, (7, 8, 9), 1), Row(0, 0, (4,), 0))), CPU)
    assert packed.input_ids.tolist() == [[7, 8, 9, 4]]
    assert packed.position_ids.tolist() == [[5, 6, 7, 0]]
    assert packed.slots.tolist() == [2, 2, 2, 0]
    assert [(row.first, row.last) for row in packed.rows] == [(0, 3), (3, 4)]
    assert [(row.start, row.end) for row in packed.rows] == [(5, 8), (0, 1)]


def test_only_the_last_tokens_of_a_row_that_asks_get_logits() -> None:
    """Kept indices point at the last `num_logits` tokens of each row, in row order."""
    rows = (Row(0, 0, (1, 2), 1), Row(1, 0, (3, 4, 5), 0), Row(2, 9, (6, 7, 8), 2))
    assert pack(Batch(rows), CPU).logits_to_keep.tolist() == [1, 6, 7]
    assert pack(Batch(rows[1:2]), CPU).logits_to_keep.tolist() == []
