"""Who runs this step: the waiting queue, the running set, and the batch made of them.

In: sequences. Out: a `Batch` with one decode token from every running sequence and prefill chunks
in what is left of the token budget. No tensors here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from libertai_engine.model.batch import Batch, Row
from libertai_engine.sequence import Sequence
from libertai_engine.slots import Slot, SlotPool


@dataclass(slots=True, eq=False)
class Running:
    """A sequence and the slot it runs in. What the slot lacks of the tokens is to be evaluated."""

    sequence: Sequence
    slot: Slot

    @property
    def num_left(self) -> int:
        """Tokens that are not in the lane yet: 1 while decoding."""
        return len(self.sequence.token_ids) - len(self.slot.token_ids)

    def row(self, max_tokens: int) -> Row:
        """The next tokens to evaluate, at most `max_tokens`."""
        start = len(self.slot.token_ids)
        token_ids = tuple(self.sequence.token_ids[start : start + max_tokens])
        is_complete = len(token_ids) == self.num_left
        num_logits = int(is_complete and not self.sequence.is_prefill_only)
        return Row(
            self.slot.index, start, token_ids, num_logits, images=self.sequence.request.images
        )


@dataclass(frozen=True, slots=True)
class Step:
    """A batch and, row by row, whose it is."""

    batch: Batch
    owners: tuple[Running, ...]


class Scheduler:
    """First in, first out. Invariant: a sequence is waiting, or running in one slot, or gone."""

    def __init__(self, slots: SlotPool[Any], batch_size: int) -> None:
        self._slots = slots
        self._batch_size = batch_size
        self.waiting: deque[Sequence] = deque()
        self.running: list[Running] = []

    @property
    def is_idle(self) -> bool:
        """True if there is nothing to do."""
        return not self.waiting and not self.running

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.waiting.append(sequence)

    def remove(self, is_unwanted: Callable[[Sequence], bool]) -> list[Sequence]:
        """Take out every sequence, waiting or running, that is unwanted; their slots are free."""
        leaving = [each for each in self.running if is_unwanted(each.sequence)]
        for each in leaving:
            self.release(each)
        removed = [each.sequence for each in leaving]
        removed += [sequence for sequence in self.waiting if is_unwanted(sequence)]
        self.waiting = deque(each for each in self.waiting if not is_unwanted(each))
        return removed

    def release(self, running: Running) -> None:
        """Take out a running sequence. Its tokens stay in the slot as cache."""
        self.running.remove(running)
        self._slots.release(running.slot)

    def schedule(self) -> Step:
        """Give free slots to who waits, then fill one batch."""
        self._admit()
        return self._fill_batch()

    def commit(self, step: Step) -> None:
        """Note that the rows of a step are in their lanes now."""
        for row, owner in zip(step.batch.rows, step.owners, strict=True):
            owner.slot.token_ids.extend(row.token_ids)

    def shift(self, running: Running) -> None:
        """Make room in a full context, if it is full."""
        shift = running.sequence.due_shift
        if shift is not None:
            self._slots.shift(running.slot, shift.start, shift.count)
            running.sequence.apply_shift(shift)

    def _admit(self) -> None:
        still_waiting: deque[Sequence] = deque()
        for sequence in self.waiting:
            request = sequence.request
            slot = self._slots.acquire(request.prompt_ids, request.slot, reuse=request.cache_prompt)
            if slot is None:
                still_waiting.append(sequence)
                continue
            sequence.place(slot.index, num_cached=len(slot.token_ids))
            self.running.append(Running(sequence, slot))
        self.waiting = still_waiting

    def _fill_batch(self) -> Step:
        """Every decoding row (one token each); what is left of the budget goes to longer rows."""
        decoding = [each for each in self.running if each.num_left == 1]
        prefilling = [each for each in self.running if each.num_left > 1]
        # What a grammar has forced goes before prompts: somebody reads that answer already.
        prefilling.sort(key=lambda each: not each.sequence.num_generated)
        # NOTE: at least one token, or a full set of decoding rows would starve new prompts.
        budget = max(1, self._batch_size - len(decoding))
        rows, owners = [each.row(1) for each in decoding], decoding
        for each in prefilling:
            if budget <= 0:
                break
            row = each.row(budget)
            budget -= len(row.token_ids)
            rows.append(row)
            owners.append(each)
        return Step(Batch(tuple(rows)), tuple(owners))
