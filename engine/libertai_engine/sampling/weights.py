"""What every token of a row weighs: the softmax before it is normalised, over the whole vocabulary.

In: logits of one row. Out: float64 weights on the CPU.
"""

from __future__ import annotations

import torch


def weigh(logits: torch.Tensor, heat: float = 1.0) -> tuple[torch.Tensor, float]:
    """`exp((logits - best) / heat)` for `logits` `[vocab]`, and the best of them.

    NOTE: row by row, so that what is written is still in the processor's cache when it is read,
    and that a sum of it has one shape, and so the same bits, whatever else is in the batch.
    """
    values = logits.cpu().double()
    best = values.max()
    values -= best
    if heat != 1:
        values /= heat
    return values.exp_(), float(best)
