"""Slots: KV lanes that outlive the requests that filled them, and who gets which.

In: a prompt and the slot that was asked for. Out: an acquired `Slot` whose lane already holds as
much of the prompt as could be found anywhere: in that lane, in another one, or in the host store.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol

from libertai_engine.prefixes import Copy, PrefixStore, StoredPrefix, common_prefix_length

# A lane is continued in place if the prompt shares at least this part of what the lane holds;
# otherwise the prompt takes the oldest lane, and the shared part is copied there.
MIN_SHARED = 0.5

# A lane that loses no more than this part is not copied to the host. What a stop word or another
# way to write the same text changes is a token or two at every turn, and a copy is all of them.
MAX_LOST = 0.25

logger = logging.getLogger(__name__)


class Lanes(Protocol[Copy]):
    """What the model room can do with whole lanes (see `ModelRunner`). Lengths in tokens."""

    def copy_prefix(self, source: int, target: int, length: int, start: int = 0) -> None:
        """Copy positions `[start, length)` from lane `source` to lane `target`."""

    def save_prefix(self, slot: int, length: int) -> Copy:
        """Copy the first `length` positions of a lane to host memory."""
        ...

    def prefix_nbytes(self, length: int) -> int:
        """Bytes that such a copy has."""
        ...

    def load_prefix(self, slot: int, prefix: Copy, length: int, start: int = 0) -> None:
        """Copy positions `[start, length)` of a host copy into a lane."""

    def shift(self, slot: int, start: int, count: int, length: int) -> None:
        """Drop positions `[start, start + count)`; the rest of `length` moves up and is turned."""


@dataclass(slots=True, eq=False)
class Slot:
    """One lane. Invariant: `token_ids` are exactly the tokens whose KV lies in the lane.

    After a context shift only the first `num_pure` of them are as if evaluated afresh: the others
    have seen tokens that are gone. None: all are.
    """

    index: int
    token_ids: list[int] = field(default_factory=list)
    is_busy: bool = False
    last_used: int = 0
    num_pure: int | None = None

    @property
    def reusable_ids(self) -> list[int]:
        """The tokens whose KV is right for any prompt that begins with them."""
        return self.token_ids if self.num_pure is None else self.token_ids[: self.num_pure]


@dataclass(frozen=True, slots=True)
class SlotJob:
    """Something to do with a slot, in the engine's thread, while nobody runs in it."""

    slot: int
    work: Callable[[SlotPool[Any]], Any]
    done: Future[Any]

    def run(self, slots: SlotPool[Any]) -> None:
        """Do it, unless nobody waits for it any more."""
        if not self.done.set_running_or_notify_cancel():
            return
        try:
            self.done.set_result(self.work(slots))
        except Exception as error:  # belongs to whoever waits for the job
            self.done.set_exception(error)


class SlotPool(Generic[Copy]):
    """All slots of an engine and the store behind them.

    Invariant: a busy slot belongs to one sequence; only that one appends to its `token_ids`.
    """

    def __init__(self, lanes: Lanes[Copy], num_slots: int, store_bytes: int) -> None:
        self._lanes = lanes
        self._slots = [Slot(index) for index in range(num_slots)]
        self._store: PrefixStore[Copy] = PrefixStore(store_bytes)
        self._clock = itertools.count(1)

    @property
    def num_idle(self) -> int:
        """Slots that no sequence runs in."""
        return sum(not slot.is_busy for slot in self._slots)

    @property
    def num_tokens(self) -> list[int]:
        """Tokens in each lane, slot by slot."""
        return [len(slot.token_ids) for slot in self._slots]

    def is_busy(self, index: int) -> bool:
        """Whether a sequence runs in a slot."""
        return self._slots[index].is_busy

    def save(self, index: int) -> StoredPrefix[Copy]:
        """What an idle slot holds, on the host."""
        held = self._slots[index].token_ids
        return StoredPrefix(list(held), self._lanes.save_prefix(index, len(held)))

    def restore(self, index: int, prefix: StoredPrefix[Copy]) -> None:
        """Put a prefix into an idle slot, in place of what it held."""
        slot = self._slots[index]
        self._keep_copy(slot, prefix.token_ids)
        self._lanes.load_prefix(index, prefix.copy, len(prefix.token_ids))
        slot.token_ids = list(prefix.token_ids)
        slot.last_used = next(self._clock)

    def erase(self, index: int) -> int:
        """Forget what an idle slot holds; returns how many tokens that were."""
        slot = self._slots[index]
        num_erased = len(slot.token_ids)
        slot.token_ids = []
        return num_erased

    def acquire(self, prompt_ids: Sequence[int], asked: int | None, *, reuse: bool) -> Slot | None:
        """The slot for a prompt, or None as long as it has to wait.

        With `reuse`, the slot's `token_ids` are the longest prefix of the prompt found anywhere,
        and at least one prompt token is left to evaluate; without, they are empty.
        """
        candidates = self._slots if asked is None else [self._slots[asked]]
        idle = [slot for slot in candidates if not slot.is_busy]
        if not idle:
            return None
        prompt = list(prompt_ids)
        slot = max(idle, key=lambda slot: self._preference(slot, prompt))
        slot.is_busy = True
        try:
            self._fill(slot, prompt[:-1] if reuse else [])
        except (RuntimeError, MemoryError):  # torch reports lack of memory as RuntimeError
            logger.exception("slot %d: no copy of a lane; the prompt is evaluated anew", slot.index)
            slot.token_ids = []
        return slot

    def release(self, slot: Slot) -> None:
        """Give a slot back; what its lane holds stays as cache, unless a shift has changed it."""
        slot.token_ids = slot.reusable_ids
        slot.num_pure = None
        slot.is_busy = False
        slot.last_used = next(self._clock)

    def shift(self, slot: Slot, start: int, count: int) -> None:
        """Drop tokens `[start, start + count)` from a slot; what follows takes their positions."""
        slot.num_pure = start  # first of all: should it fail half-way, what lies behind is no cache
        self._lanes.shift(slot.index, start, count, len(slot.token_ids))
        del slot.token_ids[start : start + count]

    def _preference(self, slot: Slot, prompt: list[int]) -> tuple[int, int]:
        """Longest prefix first (if it is most of what the lane holds), then least recently used."""
        shared = common_prefix_length(slot.token_ids, prompt)
        is_continued = shared > 0 and shared >= MIN_SHARED * len(slot.token_ids)
        return (shared if is_continued else 0, -slot.last_used)

    def _fill(self, slot: Slot, wanted: list[int]) -> None:
        kept = common_prefix_length(slot.token_ids, wanted)
        source, copied = self._longest_elsewhere(slot, wanted)
        stored_length, stored = self._store.find(wanted)
        self._keep_copy(slot, wanted)
        if kept >= max(copied, stored_length):
            del slot.token_ids[kept:]
        elif source is not None and copied >= stored_length:
            self._lanes.copy_prefix(source.index, slot.index, copied, kept)
            slot.token_ids = wanted[:copied]
        else:
            self._load(slot, stored, stored_length, kept)

    def _load(self, slot: Slot, stored: StoredPrefix[Copy] | None, length: int, kept: int) -> None:
        assert stored is not None, "a stored length of more than 0 has an entry"
        self._store.use(stored)
        self._lanes.load_prefix(slot.index, stored.copy, length, kept)
        slot.token_ids = stored.token_ids[:length]

    def _longest_elsewhere(self, slot: Slot, wanted: list[int]) -> tuple[Slot | None, int]:
        others = [other for other in self._slots if other is not slot]
        lengths = [common_prefix_length(other.reusable_ids, wanted) for other in others]
        best = max(range(len(others)), key=lengths.__getitem__, default=None)
        return (None, 0) if best is None else (others[best], lengths[best])

    def _keep_copy(self, slot: Slot, wanted: list[int]) -> None:
        """Before a lane is overwritten, keep it in the host store, if enough would be lost.

        A copy that the store would not take is not made: the host may have no memory for it.
        """
        held = slot.token_ids
        if not self._store.takes(self._lanes.prefix_nbytes(len(held))):
            return
        num_lost = len(held) - common_prefix_length(held, wanted)
        is_lost = num_lost > MAX_LOST * len(held) and not any(
            common_prefix_length(other.reusable_ids, held) == len(held)
            for other in self._slots
            if other is not slot
        )
        if not is_lost:
            return
        length, stored = self._store.find(held)
        if stored is not None and length == len(held):
            self._store.use(stored)
        else:
            self._store.add(list(held), self._lanes.save_prefix(slot.index, len(held)))
