"""Who runs this step: the waiting queue, the running set, and the batch made of them.

In: sequences. Out: a `Batch` with one decode token from every running sequence, what was drafted
behind it, and prefill chunks in what is left of the token budget. No tensors here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from libertai_engine.model.batch import Batch, Row
from libertai_engine.pacing import Pacer
from libertai_engine.sequence import Sequence
from libertai_engine.slots import Slot, SlotPool
from libertai_engine.speculation import Speculator

DRAFT_SHARE = 32  # beside prompts, drafts get one token in so many
FORCED = 16  # tokens that a grammar has forced are a part of any step, up to so many a sequence


@dataclass(slots=True, eq=False)
class Running:
    """A sequence and the slot it runs in. What the slot lacks of the tokens is to be evaluated.

    `num_new` is how many tokens of the prompt that was at first.
    """

    sequence: Sequence
    slot: Slot
    num_new: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_new = self.num_left

    @property
    def num_left(self) -> int:
        """Tokens that are not in the lane yet: 1 while decoding."""
        return len(self.sequence.token_ids) - len(self.slot.token_ids)

    def row(self, max_tokens: int, draft: tuple[int, ...] = ()) -> Row:
        """The next tokens to evaluate, at most `max_tokens`, and `draft` behind the last of all."""
        start = len(self.slot.token_ids)
        token_ids = tuple(self.sequence.token_ids[start : start + max_tokens])
        is_complete = len(token_ids) == self.num_left
        wants_logits = is_complete and not self.sequence.is_prefill_only
        return Row(
            self.slot.index,
            start,
            (*token_ids, *draft),
            1 + len(draft) if wants_logits else 0,
            images=self.sequence.request.images,
            num_new=0 if self.sequence.num_generated else self.num_new,
        )


@dataclass(frozen=True, slots=True)
class Step:
    """A batch and, row by row, whose it is and the drafted tokens that it ends with."""

    batch: Batch
    owners: tuple[Running, ...]
    drafts: tuple[tuple[int, ...], ...]

    def alone(self, index: int) -> Step:
        """One row of it as a step."""
        only = slice(index, index + 1)
        return Step(Batch(self.batch.rows[only]), self.owners[only], self.drafts[only])


class Scheduler:
    """First in, first out. Invariant: a sequence is waiting, or running in one slot, or gone."""

    def __init__(
        self,
        slots: SlotPool[Any],
        batch_size: int,
        speculator: Speculator | None = None,
        pacer: Pacer | None = None,
    ) -> None:
        """Without a `pacer`, prompts fill every step up to `batch_size` tokens."""
        self._slots = slots
        self._batch_size = batch_size
        self._speculator = speculator
        self._pacer = Pacer(batch_size, 0.0) if pacer is None else pacer
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
        still_waiting: deque[Sequence] = deque()
        for sequence in self.waiting:
            # NOTE: asked once, since readers leave at any time: between two answers it would be
            # neither removed nor waiting.
            (removed if is_unwanted(sequence) else still_waiting).append(sequence)
        self.waiting = still_waiting
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
        """Note that the rows of a step are in their lanes now, but for what was only drafted."""
        self._pacer.end()
        for row, owner, draft in zip(step.batch.rows, step.owners, step.drafts, strict=True):
            owner.slot.token_ids.extend(row.token_ids[: len(row.token_ids) - len(draft)])

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
        """Every answer's row, with its draft; longer rows as far as batch size and pace allow."""
        decoding, prefilling = self._parted()
        drafts = self._draft(decoding, is_alone=not prefilling)
        pairs = zip(decoding, drafts, strict=True)
        rows = [each.row(each.num_left, draft) for each, draft in pairs]
        num_others = sum(len(row.token_ids) for row in rows)
        budget = self._pacer.budget(num_others)
        owners = decoding
        for each in prefilling:
            if budget <= 0:
                break
            row = each.row(budget)
            budget -= len(row.token_ids)
            rows.append(row)
            owners.append(each)
        drafts += [()] * (len(rows) - len(drafts))
        batch = Batch(tuple(rows))
        self._pacer.begin(num_others, batch.num_tokens - num_others)
        return Step(batch, tuple(owners), tuple(drafts))

    def _parted(self) -> tuple[list[Running], list[Running]]:
        """Answers of which every step evaluates all that is left; what waits for its turn."""
        answering = [each for each in self.running if each.num_left == 1]
        # What a grammar has forced goes before prompts: somebody reads that answer already.
        longer = [each for each in self.running if each.num_left > 1]
        longer.sort(key=lambda each: not each.sequence.num_generated)
        room, waiting = self._batch_size - len(answering), []
        for each in longer:
            if each.sequence.num_generated and each.num_left <= min(room, FORCED):
                answering.append(each)
                room -= each.num_left
            else:
                waiting.append(each)
        return answering, waiting

    def _draft(self, decoding: list[Running], *, is_alone: bool) -> list[tuple[int, ...]]:
        """What to try behind the last token of each; prompts beside them keep most of the step."""
        num_tokens = sum(each.num_left for each in decoding)
        room = self._batch_size - num_tokens
        if not is_alone:
            room //= DRAFT_SHARE
        if self._speculator is None or room <= 0 or not decoding:
            return [()] * len(decoding)
        drafts = []
        sequences = [each.sequence for each in decoding]
        plan = self._speculator.plan(sequences, room, num_tokens - len(decoding))
        for sequence, draft in zip(sequences, plan, strict=True):
            drafts.append(draft[: min(room, sequence.draft_room)])
            room -= len(drafts[-1])
        return drafts
