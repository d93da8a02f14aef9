"""What one step evaluates: plain data, no tensors of its own.

In: slots, token ids and positions from the scheduler. Out: a `Batch` that `ModelRunner.run` reads.
"""

from __future__ import annotations

from dataclasses import dataclass

from libertai_engine.model.images import PromptImage


@dataclass(frozen=True, slots=True)
class Row:
    """The next tokens of one slot.

    `token_ids` (at least one) take positions `start, start + 1, …` of lane `slot`; everything
    before `start` is already in the lane. Logits are wanted behind each of the last `num_logits`
    tokens. `images` are those of the whole request; every image id among the tokens is one of
    theirs.
    """

    slot: int
    start: int
    token_ids: tuple[int, ...]
    num_logits: int
    images: tuple[PromptImage, ...] = ()

    @property
    def end(self) -> int:
        """First position after this row."""
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows evaluated in one forward pass. No slot appears twice."""

    rows: tuple[Row, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens evaluated in this step."""
        return sum(len(row.token_ids) for row in self.rows)
