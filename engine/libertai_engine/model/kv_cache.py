"""Keys and values of every slot, in lanes that are allocated once.

In: keys and values of a packed step, from the model's layers. Out: the lanes that attention reads,
and prefixes of a lane on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from libertai_engine.model.packing import PackedBatch

TurnKeys = Callable[[torch.Tensor, int, int], torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class KVPrefix:
    """The first `length` positions of one lane, on the host; frozen, so it may be shared.

    Each entry is one layer, `[kv_head, length, head_dim]`.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    length: int

    @property
    def nbytes(self) -> int:
        """Host memory held, in bytes."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


class KVCache:
    """Lanes `[slot, kv_head, position, head_dim]` for the keys and the values of each layer.

    Invariant: once the first step has run, lanes are neither added, moved nor resized. They come
    from `torch.empty`: on a CPU, pages nobody wrote cost no memory. Heads and sizes may differ
    from layer to layer, because a layer's lanes take the shape of its first keys and values.
    """

    def __init__(self, *, num_slots: int, context_size: int) -> None:
        self.num_slots = num_slots
        self.context_size = context_size
        self._lanes: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def num_layers(self) -> int:
        """Layers that keep keys and values of their own."""
        return len(self._lanes)

    @property
    def lanes(self) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """Keys and values `[slot, kv_head, position, head_dim]`, by layer; none before a step."""
        return tuple(pair for _, pair in sorted(self._lanes.items()))

    @property
    def nbytes(self) -> int:
        """Size of all lanes in bytes, touched or not."""
        return sum(lane.nbytes for pair in self._lanes.values() for lane in pair)

    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, packed: PackedBatch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the step's `[1, kv_head, T, head_dim]` into their lanes; returns the layer's lanes.

        Raises `RuntimeError` (torch's out-of-memory included) if the lanes cannot be allocated.
        """
        if layer not in self._lanes:
            self._lanes[layer] = (self._allocate(keys), self._allocate(values))
        key_lanes, value_lanes = self._lanes[layer]
        _scatter(key_lanes, keys, packed)
        _scatter(value_lanes, values, packed)
        return key_lanes, value_lanes

    def _allocate(self, states: torch.Tensor) -> torch.Tensor:
        _, kv_heads, _, head_dim = states.shape
        return states.new_empty(self.num_slots, kv_heads, self.context_size, head_dim)

    def copy(self, source: int, target: int, length: int, start: int = 0) -> None:
        """Make positions `[start, length)` of lane `target` equal to those of `source`."""
        for pair in self._lanes.values():
            for lanes in pair:
                lanes[target, :, start:length].copy_(lanes[source, :, start:length])

    def save(self, slot: int, length: int) -> KVPrefix:
        """A host copy of the first `length` positions of a lane."""
        keys, values = (
            tuple(
                pair[side][slot, :, :length].to("cpu", copy=True) for pair in self._lanes.values()
            )
            for side in (0, 1)
        )
        return KVPrefix(keys, values, length)

    def load(self, slot: int, prefix: KVPrefix, length: int, start: int = 0) -> None:
        """Write positions `[start, length)` of `prefix` into a lane.

        Raises `ValueError`, and changes nothing, if the prefix was not taken from such lanes.
        """
        self._check_shapes(prefix)
        for (key_lanes, value_lanes), keys, values in zip(
            self._lanes.values(), prefix.keys, prefix.values, strict=True
        ):
            key_lanes[slot, :, start:length].copy_(keys[:, start:length])
            value_lanes[slot, :, start:length].copy_(values[:, start:length])

    def _check_shapes(self, prefix: KVPrefix) -> None:
        lanes = [pair[side] for side in (0, 1) for pair in self._lanes.values()]
        copies = [*prefix.keys, *prefix.values]
        if [_lane_shape(lane) for lane in lanes] != [_lane_shape(copy) for copy in copies]:
            raise ValueError("the lanes have other shapes")

    def keys_of(self, slot: int, length: int) -> dict[int, torch.Tensor]:
        """Copies of the first `length` keys of a lane, `[kv_head, length, head_dim]`, by layer."""
        return {layer: keys[slot, :, :length].clone() for layer, (keys, _) in self._lanes.items()}

    def shift(self, slot: int, start: int, count: int, length: int, turn: TurnKeys) -> None:
        """Drop positions `[start, start + count)` of a lane; the rest of `length` moves up.

        `turn(keys, layer, count)` moves keys `[kv_head, n, head_dim]` to `count` positions before.
        """
        target = slice(start, length - count)
        for layer, (key_lanes, value_lanes) in self._lanes.items():
            keys = key_lanes[slot, :, start + count : length]
            # NOTE: source and target overlap, so both are copied before they are written.
            key_lanes[slot, :, target] = turn(keys, layer, count)
            value_lanes[slot, :, target] = value_lanes[slot, :, start + count : length].clone()


def _lane_shape(states: torch.Tensor) -> tuple[int, int]:
    """Heads and size of lanes `[slot, kv_head, position, head_dim]` or of a copy without slot."""
    return states.shape[-3], states.shape[-1]


def _scatter(lanes: torch.Tensor, states: torch.Tensor, packed: PackedBatch) -> None:
    if len(packed.rows) == 1:
        row = packed.rows[0]
        lanes[row.slot, :, row.start : row.end] = states[0]
    else:
        # NOTE: with a slice between two index tensors, the indexed axis comes first.
        lanes[packed.slots, :, packed.position_ids[0]] = states[0].transpose(0, 1)  # [T, kv, d]


class StepCache:
    """What transformers' models take for their cache, for the length of one forward pass.

    Invariant: it claims to be empty, since positions come from `position_ids` and masks from the
    rows; `update` writes to the lanes and hands the whole lanes to the attention function.
    A model that asks for more than this (recurrent states, cross attention) fails on the missing
    name, which the loader's probe turns into a `ModelLoadError`.
    """

    is_compileable = False

    def __init__(self, cache: KVCache, packed: PackedBatch) -> None:
        self._cache = cache
        self._packed = packed

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write `[1, kv_head, T, head_dim]`; returns the layer's whole lanes."""
        return self._cache.write(layer_idx, keys, values, self._packed)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens already in the cache as far as transformers is concerned: none."""
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Offset of the first query in a mask that nobody builds."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Length and offset of the keys in a mask that nobody builds."""
        return query_length, 0
