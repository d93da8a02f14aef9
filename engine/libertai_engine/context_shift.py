"""What leaves a full context so that an answer can go on.

In: how full it is. Out: a `Shift`, which the slot's lane and the sequence carry out.
"""

from __future__ import annotations

from dataclasses import dataclass

from libertai_engine.config import MIN_CONTEXT


@dataclass(frozen=True, slots=True)
class Shift:
    """Positions `[start, start + count)` leave the context; what follows moves up."""

    start: int
    count: int


def shift_of(num_evaluated: int, context_size: int, num_keep: int) -> Shift:
    """The shift of a lane that holds `num_evaluated` tokens.

    As on llama.cpp's server of 2023: `num_keep` tokens and one more (BOS) stay in front, and half
    of the others go.
    """
    num_kept = max(0, min(num_keep, context_size - MIN_CONTEXT)) + 1
    return Shift(num_kept, (num_evaluated - num_kept) // 2)
