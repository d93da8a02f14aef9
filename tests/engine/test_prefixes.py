"""Prefix lengths and the bounded store of prefixes that lost their slot."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from libertai_engine.prefixes import MAX_PREFIXES, PrefixStore, common_prefix_length

tokens = st.lists(st.integers(0, 2), max_size=12)


@dataclass
class Copy:
    nbytes: int = 10


@given(tokens, tokens)
def test_common_prefix_is_the_longest(left: list[int], right: list[int]) -> None:
    """The prefixes of that length agree, and one token more does not."""
    length = common_prefix_length(left, right)
    assert left[:length] == right[:length]
    assert length == min(len(left), len(right)) or left[length] != right[length]


def test_find_gives_the_longest_common_prefix() -> None:
    """Of several stored prefixes the one that shares most with the prompt is found."""
    store: PrefixStore[Copy] = PrefixStore(100)
    store.add([1, 2, 3], Copy())
    store.add([1, 2, 4, 5], Copy())
    length, entry = store.find([1, 2, 4, 9])
    assert length == 3
    assert entry is not None and entry.token_ids == [1, 2, 4, 5]
    assert store.find([7]) == (0, None)


def test_a_longer_prefix_replaces_what_it_contains() -> None:
    """A stored beginning of a new prefix is of no more use."""
    store: PrefixStore[Copy] = PrefixStore(100)
    store.add([1, 2], Copy())
    store.add([1, 2, 3], Copy())
    assert len(store) == 1
    assert store.holds([1, 2]) and store.holds([1, 2, 3]) and not store.holds([1, 2, 3, 4])


@given(st.lists(st.tuples(tokens, st.integers(1, 60)), max_size=20))
def test_the_store_never_outgrows_its_bytes(entries: list[tuple[list[int], int]]) -> None:
    """Whatever is added, the sum of the copies stays within the bound and is counted right."""
    store: PrefixStore[Copy] = PrefixStore(100)
    for token_ids, nbytes in entries:
        store.add(token_ids, Copy(nbytes))
        assert store.num_bytes <= 100
        assert (store.num_bytes == 0) == (len(store) == 0)


def test_the_least_recently_used_prefix_goes_first() -> None:
    """Using a prefix keeps it alive."""
    store: PrefixStore[Copy] = PrefixStore(20)
    store.add([1], Copy())
    store.add([2], Copy())
    _, entry = store.find([1, 9])
    assert entry is not None
    store.use(entry)
    store.add([3], Copy())
    assert store.holds([1]) and store.holds([3]) and not store.holds([2])


def test_looking_is_no_use() -> None:
    """All prompts share BOS with a stored prefix, which must not keep it there."""
    store: PrefixStore[Copy] = PrefixStore(20)
    store.add([0, 1], Copy())
    store.add([0, 2], Copy())
    assert store.find([0, 7, 8])[0] == 1
    store.add([0, 3], Copy())
    assert store.holds([0, 2]) and store.holds([0, 3]) and not store.holds([0, 1])


def test_many_small_prefixes_are_too_many() -> None:
    """Every prompt is compared with all of them, while everybody waits."""
    store: PrefixStore[Copy] = PrefixStore(1 << 60)
    for number in range(MAX_PREFIXES + 5):
        store.add([0, number], Copy())
    assert len(store) == MAX_PREFIXES and store.num_bytes == 10 * MAX_PREFIXES
    assert store.holds([0, 5]) and not store.holds([0, 4])
