"""Token prefixes: how long two agree, and a bounded store for those that lost their slot.

In: token ids and what a lane's copy weighs. Out: the longest stored prefix of a prompt.
No tensors here: the store keeps the copies as opaque objects with a size.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

MAX_PREFIXES = 1024  # each is looked at for every prompt, which takes a microsecond


class Sized(Protocol):
    """Anything that knows its size in bytes."""

    @property
    def nbytes(self) -> int:
        """Bytes of host memory held."""
        ...


Copy = TypeVar("Copy", bound=Sized)


def common_prefix_length(left: list[int], right: list[int]) -> int:
    """Number of leading tokens that `left` and `right` share, by bisection over slice compares."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True, slots=True)
class StoredPrefix(Generic[Copy]):
    """The tokens of a prefix and the copy of their KV."""

    token_ids: list[int]
    copy: Copy


class PrefixStore(Generic[Copy]):
    """Prefixes without a slot, least recently used first to go.

    Invariant: the copies weigh at most `max_bytes` together and are at most `MAX_PREFIXES`; no
    stored prefix begins another.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[int, StoredPrefix[Copy]] = OrderedDict()
        self._next_key = 0
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def holds(self, token_ids: list[int]) -> bool:
        """True if `token_ids` is the beginning of something stored."""
        return self.find(token_ids)[0] == len(token_ids)

    def takes(self, nbytes: int) -> bool:
        """True if a copy of this size may be stored."""
        return nbytes <= self._max_bytes

    def add(self, token_ids: list[int], copy: Copy) -> None:
        """Store a prefix, forgetting the ones it contains and the least recently used."""
        if not self.takes(copy.nbytes):
            return
        for key, entry in list(self._entries.items()):
            if common_prefix_length(entry.token_ids, token_ids) == len(entry.token_ids):
                self._forget(key)
        self._entries[self._next_key] = StoredPrefix(token_ids, copy)
        self._next_key += 1
        self.num_bytes += copy.nbytes
        while self.num_bytes > self._max_bytes or len(self._entries) > MAX_PREFIXES:
            self._forget(next(iter(self._entries)))

    def find(self, token_ids: list[int]) -> tuple[int, StoredPrefix[Copy] | None]:
        """The longest common prefix with anything stored: its length (0: none) and the entry."""
        best, best_key = 0, None
        for key, entry in self._entries.items():
            length = common_prefix_length(entry.token_ids, token_ids)
            if length > best:
                best, best_key = length, key
        return best, None if best_key is None else self._entries[best_key]

    def use(self, entry: StoredPrefix[Copy]) -> None:
        """Note that a stored prefix is worth keeping: it goes last now."""
        # NOTE: finding it is not enough, since every prompt shares BOS with everything stored.
        for key, each in self._entries.items():
            if each is entry:
                self._entries.move_to_end(key)
                return

    def _forget(self, key: int) -> None:
        self.num_bytes -= self._entries.pop(key).copy.nbytes
