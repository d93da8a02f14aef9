"""What an engine has done so far, in numbers that only grow.

In: each step, when it begins and when its tokens are there. Out: `Totals`, for who watches.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from libertai_engine.scheduler import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over all steps.

    `num_prompt_tokens` were evaluated (what came from a cache was not), `num_generated` became
    answers; a step's seconds are shared out between the two by the tokens it evaluated for each.
    Of `num_drafted` tokens that were guessed ahead, `num_accepted` were right and became answers.
    `num_busy_slots` over `num_steps` is the mean size of a batch in sequences; `most_tokens` is the
    longest that a slot has been.
    """

    num_steps: int = 0
    num_busy_slots: int = 0
    num_prompt_tokens: int = 0
    num_generated: int = 0
    prompt_seconds: float = 0.0
    generation_seconds: float = 0.0
    num_drafted: int = 0
    num_accepted: int = 0
    most_tokens: int = 0


class Tally:
    """Counts the steps of one engine.

    Invariant: `begin` and `end` alternate, in the engine's thread; `totals` is replaced as a whole,
    so that any thread may read it.
    """

    def __init__(self) -> None:
        self.totals = Totals()
        self._begun = 0.0
        self._num_evaluated = self._num_prompt_tokens = self._num_busy_slots = 0

    def begin(self, step: Step) -> None:
        """A step is about to run."""
        rows = list(zip(step.batch.rows, step.owners, strict=True))
        self._num_evaluated = sum(len(row.token_ids) for row, _ in rows)
        self._num_prompt_tokens = sum(
            len(row.token_ids) for row, owner in rows if not owner.sequence.num_generated
        )
        self._num_busy_slots = len(rows)
        self._begun = time.perf_counter()

    def end(
        self, step: Step, num_generated: int, *, num_drafted: int = 0, num_accepted: int = 0
    ) -> None:
        """The step has run, and answers grew by so many tokens, the accepted ones included."""
        seconds = time.perf_counter() - self._begun
        prompt_seconds = seconds * self._num_prompt_tokens / self._num_evaluated
        longest = max(len(owner.slot.token_ids) for owner in step.owners)
        old = self.totals
        self.totals = Totals(
            num_steps=old.num_steps + 1,
            num_busy_slots=old.num_busy_slots + self._num_busy_slots,
            num_prompt_tokens=old.num_prompt_tokens + self._num_prompt_tokens,
            num_generated=old.num_generated + num_generated,
            prompt_seconds=old.prompt_seconds + prompt_seconds,
            generation_seconds=old.generation_seconds + seconds - prompt_seconds,
            num_drafted=old.num_drafted + num_drafted,
            num_accepted=old.num_accepted + num_accepted,
            most_tokens=max(old.most_tokens, longest),
        )
