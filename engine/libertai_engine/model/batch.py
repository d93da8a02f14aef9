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
    theirs. `num_new` is how many tokens of the prompt the request had to evaluate in all, of which
    these are some: 0 where an answer goes on; None if these are all.
    """

    slot: int
    start: int
    token_ids: tuple[int, ...]
    num_logits: int
    images: tuple[PromptImage, ...] = ()
    num_new: int | None = None

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
