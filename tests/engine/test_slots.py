"""Which slot a prompt gets, and what of it the lane holds already."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from libertai_engine.slots import Slot, SlotPool


@dataclass(frozen=True)
class LaneCopy:
    """What a lane held, token for token."""

    token_ids: tuple[int, ...]
    nbytes: int = 1


@dataclass
class RecordingLanes:
    """Lanes that hold the tokens themselves, so that a test can see what the KV would be."""

    held: dict[int, list[int]] = field(default_factory=dict)
    num_copies: int = 0
    num_copied: int = 0
    num_saved: int = 0

    def copy_prefix(self, source: int, target: int, length: int, start: int = 0) -> None:
        assert len(self.held[source]) >= length
        self.held[target] = self.held.get(target, [])[:start] + self.held[source][start:length]
        self.num_copies += 1
        self.num_copied += length - start

    def save_prefix(self, slot: int, length: int) -> LaneCopy:
        assert len(self.held[slot]) >= length
        self.num_saved += 1
        return LaneCopy(tuple(self.held[slot][:length]))

    def prefix_nbytes(self, length: int) -> int:
        return LaneCopy.nbytes

    def load_prefix(self, slot: int, prefix: LaneCopy, length: int, start: int = 0) -> None:
        self.held[slot] = self.held.get(slot, [])[:start] + list(prefix.token_ids[start:length])
        self.num_copied += length - start

    def shift(self, slot: int, start: int, count: int, length: int) -> None:
        assert len(self.held[slot]) >= length >= start + count
        self.held[slot] = self.held[slot][:length]
        del self.held[slot][start : start + count]

    def evaluate(self, slot: Slot, prompt: list[int]) -> None:
        """What a request does: put the rest of its prompt into the lane."""
        start = len(slot.token_ids)
        self.held[slot.index] = self.held.get(slot.index, [])[:start] + prompt[start:]
        slot.token_ids.extend(prompt[start:])


def pool(num_slots: int = 2, store: int = 100) -> tuple[SlotPool[LaneCopy], RecordingLanes]:
    lanes = RecordingLanes()
    return SlotPool(lanes, num_slots, store), lanes


def run(
    slots: SlotPool[LaneCopy], lanes: RecordingLanes, prompt: list[int], asked: int | None = None
) -> tuple[int, int]:
    """One request from start to end: the slot it got and how many tokens it found there."""
    slot = slots.acquire(prompt, asked, reuse=True)
    assert slot is not None
    found = len(slot.token_ids)
    lanes.evaluate(slot, prompt)
    slots.release(slot)
    return slot.index, found


def test_a_continued_prompt_gets_its_slot_back() -> None:
    """The lane with the longest common prefix wins, and all of it is reused."""
    slots, lanes = pool()
    first, _ = run(slots, lanes, [1, 2, 3])
    other, _ = run(slots, lanes, [7, 8, 9])
    assert first != other
    assert run(slots, lanes, [1, 2, 3, 4, 5]) == (first, 3)


def test_at_least_one_token_is_always_evaluated() -> None:
    """A prompt that is wholly in the lane still leaves its last token to evaluate."""
    slots, lanes = pool()
    index, _ = run(slots, lanes, [1, 2, 3])
    assert run(slots, lanes, [1, 2, 3]) == (index, 2)


def test_the_least_recently_used_slot_is_taken_without_a_prefix() -> None:
    """A prompt unlike any other takes the oldest lane."""
    slots, lanes = pool(3)
    order = [run(slots, lanes, [token, token])[0] for token in (1, 2, 3)]
    assert sorted(order) == [0, 1, 2]
    assert run(slots, lanes, [9, 9])[0] == order[0]


def test_a_prefix_of_another_slot_is_copied() -> None:
    """A short shared beginning does not cost the other conversation its lane."""
    slots, lanes = pool()
    first, _ = run(slots, lanes, [1, 2, 3, 4, 5, 6, 7, 8])
    second, found = run(slots, lanes, [1, 2, 9])
    assert second != first and found == 2
    assert lanes.num_copies == 1
    assert run(slots, lanes, [1, 2, 3, 4, 5, 6, 7, 8, 9]) == (first, 8)


def test_a_busy_lane_can_be_copied_from() -> None:
    """Requests with one system prompt share it even while they run."""
    slots, lanes = pool()
    running = slots.acquire([1, 2, 3, 4], None, reuse=True)
    assert running is not None
    lanes.evaluate(running, [1, 2, 3, 4])
    assert run(slots, lanes, [1, 2, 3, 9])[1] == 3


def test_an_asked_slot_is_given_or_waited_for() -> None:
    """A busy slot that was asked for is not replaced by another."""
    slots, _ = pool()
    held = slots.acquire([1], 1, reuse=True)
    assert held is not None and held.index == 1
    assert slots.acquire([1], 1, reuse=True) is None
    slots.release(held)
    assert slots.acquire([1], 1, reuse=True) is held


def test_no_slot_while_all_are_busy() -> None:
    """The pool never hands a busy slot out."""
    slots, _ = pool(1)
    assert slots.acquire([1], None, reuse=True) is not None
    assert slots.num_idle == 0
    assert slots.acquire([2], None, reuse=True) is None


def test_an_overwritten_prefix_comes_back_from_the_store() -> None:
    """More conversations than slots: each finds its tokens again."""
    slots, lanes = pool(2)
    conversations = [[n, n + 1, n + 2] for n in range(10, 60, 10)]
    for prompt in conversations:
        assert run(slots, lanes, prompt)[1] == 0
    for prompt in conversations:
        assert run(slots, lanes, [*prompt, 99])[1] == 3


def test_without_a_store_the_prefix_is_lost() -> None:
    """A budget of no bytes means no memory beyond the lanes, not even for a moment."""
    slots, lanes = pool(1, store=0)
    run(slots, lanes, [1, 2, 3])
    run(slots, lanes, [7, 8, 9])
    assert run(slots, lanes, [1, 2, 3, 4])[1] == 0
    assert lanes.num_saved == 0


def test_without_reuse_everything_is_evaluated() -> None:
    """A request that wants no cache starts from an empty lane."""
    slots, lanes = pool(1)
    run(slots, lanes, [1, 2, 3])
    slot = slots.acquire([1, 2, 3, 4], None, reuse=False)
    assert slot is not None and slot.token_ids == []


prompts = st.lists(st.integers(0, 2), min_size=1, max_size=10)
requests = st.lists(st.tuples(prompts, st.none() | st.integers(0, 2)), max_size=30)


@given(requests, st.integers(0, 5))
def test_the_lane_always_holds_what_the_slot_says(
    asked: list[tuple[list[int], int | None]], store: int
) -> None:
    """After any history, a lane's KV is that of the slot's tokens, a prefix of the prompt."""
    slots, lanes = pool(3, store)
    for prompt, index in asked:
        slot = slots.acquire(prompt, index, reuse=True)
        assert slot is not None
        length = len(slot.token_ids)
        assert slot.token_ids == prompt[:length] and length < len(prompt)
        assert lanes.held.get(slot.index, [])[:length] == slot.token_ids
        lanes.evaluate(slot, prompt)
        slots.release(slot)


def test_a_lane_is_not_copied_for_its_last_few_tokens() -> None:
    """A conversation whose answer ended at a stop word differs in the last token at every turn."""
    slots, lanes = pool(1)
    prompt = list(range(10, 40))
    for turn in range(5):
        assert run(slots, lanes, [*prompt, 99])[1] == (len(prompt) - 2 if turn else 0)
        prompt += [50 + turn, 60 + turn]
    assert lanes.num_saved == 0
    run(slots, lanes, [7, 8, 9])
    assert lanes.num_saved == 1
    assert run(slots, lanes, prompt)[1] == len(prompt) - 2


@dataclass
class FullLanes(RecordingLanes):
    """Lanes on a machine that has no memory left for copies."""

    def save_prefix(self, slot: int, length: int) -> LaneCopy:
        raise RuntimeError("out of memory")


def test_where_no_copy_fits_the_prompt_is_evaluated_anew() -> None:
    """Reuse is a gain, not a need: the slot is handed out, empty."""
    lanes = FullLanes()
    slots = SlotPool(lanes, 1, 100)
    run(slots, lanes, [1, 2, 3])
    assert run(slots, lanes, [7, 8, 9, 10]) == (0, 0)
    assert run(slots, lanes, [7, 8, 9, 10, 11]) == (0, 4)


def test_what_a_shift_moved_is_no_prefix_of_anything() -> None:
    """Moved tokens have seen those that are gone, so only what lies before them is reused."""
    slots, lanes = pool()
    slot = slots.acquire([1, 2, 3, 4, 5, 6], None, reuse=True)
    assert slot is not None
    lanes.evaluate(slot, [1, 2, 3, 4, 5, 6])
    slots.shift(slot, 2, 2)
    assert slot.token_ids == lanes.held[slot.index] == [1, 2, 5, 6]
    other = slots.acquire([1, 2, 5, 6, 7], None, reuse=True)  # while the first still runs
    assert other is not None and other is not slot and other.token_ids == [1, 2]
    slots.release(other)
    slots.release(slot)
    assert run(slots, lanes, [1, 2, 5, 6, 7], asked=slot.index) == (slot.index, 2)


def test_only_what_a_lane_lacks_is_copied() -> None:
    """From another lane and from the store: a copy of all would cost more than the few tokens."""
    slots, lanes = pool()
    run(slots, lanes, [1, 2, 3, 4, 5, 6, 7], asked=0)
    run(slots, lanes, [1, 2, 3, 4, 9], asked=1)
    before = lanes.num_copied
    assert run(slots, lanes, [1, 2, 3, 4, 5, 6, 8], asked=1) == (1, 6)
    assert lanes.num_copied - before == 2
    assert lanes.held[1] == [1, 2, 3, 4, 5, 6, 8]
    run(slots, lanes, [1, 2, 50, 51, 52, 53], asked=0)  # the first prompt goes to the store
    run(slots, lanes, [1, 60, 61, 62], asked=1)
    before = lanes.num_copied
    assert run(slots, lanes, [1, 2, 3, 4, 5, 6, 7, 8], asked=0) == (0, 7)
    assert lanes.num_copied - before == 5
    assert lanes.held[0] == [1, 2, 3, 4, 5, 6, 7, 8]
