"""Lanes hold what was written, verbs move exact prefixes, and untouched memory costs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.kv_cache import KVCache, StepCache
from libertai_engine.model.packing import PackedBatch, pack

SHAPES = ((2, 8, 8), (1, 4, 6))
"""(kv_head, key_dim, value_dim) of two layers that differ."""


def packed(*rows: Row) -> PackedBatch:
    return pack(Batch(rows), torch.device("cpu"))


def fill(cache: KVCache, rows: PackedBatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Write random keys and values for `rows` to both layers; returns them."""
    tokens = rows.input_ids.shape[1]
    written = []
    for layer, (heads, key_dim, value_dim) in enumerate(SHAPES):
        keys = torch.randn(1, heads, tokens, key_dim)
        values = torch.randn(1, heads, tokens, value_dim)
        cache.write(layer, keys, values, rows)
        written.append((keys, values))
    return written


def lane(cache: KVCache, layer: int, slot: int, length: int) -> list[torch.Tensor]:
    prefix = cache.save(slot, length)
    return [prefix.keys[layer], prefix.values[layer]]


@pytest.mark.parametrize("alone", [True, False])
def test_tokens_go_to_their_own_lane_and_position(alone: bool) -> None:
    """One row (written as a slice) and many rows (scattered) land in the same places."""
    cache = KVCache(num_slots=3, context_size=16)
    fill(cache, packed(Row(1, 0, (1,) * 4, 0), Row(2, 0, (1,) * 6, 0)))
    row = Row(1, 4, (1, 2, 3), 0)
    rows = packed(row) if alone else packed(row, Row(2, 6, (5,), 0))
    written = fill(cache, rows)
    for layer, pair in enumerate(written):
        for saved, states in zip(lane(cache, layer, 1, 7), pair, strict=True):
            assert torch.equal(saved[:, 4:7], states[0, :, :3])


def test_layers_may_differ_in_heads_and_sizes() -> None:
    """A layer's lanes take the shape of what the layer writes; bytes add up."""
    cache = KVCache(num_slots=3, context_size=16)
    fill(cache, packed(Row(0, 0, (1,), 0)))
    assert cache.num_layers == 2
    per_position = sum(heads * (key + value) for heads, key, value in SHAPES)
    assert cache.nbytes == 3 * 16 * 4 * per_position
    assert cache.save(0, 5).nbytes == 5 * 4 * per_position


def test_a_copy_is_the_prefix_and_nothing_more() -> None:
    """`copy` makes `length` positions equal and leaves later ones of the target alone."""
    cache = KVCache(num_slots=2, context_size=8)
    fill(cache, packed(Row(0, 0, (1,) * 8, 0), Row(1, 0, (1,) * 8, 0)))
    before = [lane(cache, layer, 1, 8) for layer in (0, 1)]
    cache.copy(0, 1, 5)
    for layer in (0, 1):
        for source, target, old in zip(
            lane(cache, layer, 0, 8), lane(cache, layer, 1, 8), before[layer], strict=True
        ):
            assert torch.equal(target[:, :5], source[:, :5])
            assert torch.equal(target[:, 5:], old[:, 5:])


def test_a_saved_prefix_survives_its_lane() -> None:
    """Later writes do not reach a saved prefix, and loading puts a part of it into any slot."""
    cache = KVCache(num_slots=2, context_size=8)
    written = fill(cache, packed(Row(0, 0, (1,) * 6, 0)))
    prefix = cache.save(0, 6)
    fill(cache, packed(Row(0, 0, (2,) * 6, 0), Row(1, 0, (2,) * 6, 0)))
    after = lane(cache, 0, 1, 6)
    cache.load(1, prefix, 4)
    assert prefix.length == 6
    assert torch.equal(prefix.keys[0], written[0][0][0])
    assert torch.equal(lane(cache, 0, 1, 6)[0][:, :4], written[0][0][0][:, :4])
    assert torch.equal(lane(cache, 0, 1, 6)[0][:, 4:], after[0][:, 4:])


def test_what_is_there_already_is_left_alone() -> None:
    """Copying and loading from `start` on write nothing before it."""
    cache = KVCache(num_slots=3, context_size=8)
    fill(cache, packed(*(Row(slot, 0, (1,) * 8, 0) for slot in range(3))))
    source, target, other = (lane(cache, 0, slot, 8)[0] for slot in range(3))
    cache.copy(0, 1, 6, 4)
    cache.load(2, cache.save(0, 7), 7, 5)
    expected = torch.cat((target[:, :4], source[:, 4:6], target[:, 6:]), dim=1)
    assert torch.equal(lane(cache, 0, 1, 8)[0], expected)
    expected = torch.cat((other[:, :5], source[:, 5:7], other[:, 7:]), dim=1)
    assert torch.equal(lane(cache, 0, 2, 8)[0], expected)


def test_untouched_lanes_cost_no_memory() -> None:
    """Two gigabytes of lanes with one written token take far less than that."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("resident size is read from /proc")
    before = int(statm.read_text().split()[1])
    cache = KVCache(num_slots=8, context_size=1 << 17)
    states = torch.zeros(1, 4, 1, 64)
    cache.write(0, states, states, packed(Row(3, 0, (1,), 0)))
    assert cache.nbytes == 2 << 30
    assert (int(statm.read_text().split()[1]) - before) * 4096 < 100 << 20


def test_a_step_looks_empty_to_transformers() -> None:
    """Positions and masks are ours: the cache of a step claims no length, yet returns the lanes."""
    cache = KVCache(num_slots=2, context_size=8)
    rows = packed(Row(1, 3, (1, 2), 0))
    step = StepCache(cache, rows)
    keys, values = step.update(torch.ones(1, 2, 2, 4), torch.ones(1, 2, 2, 4), 0)
    assert keys.shape == values.shape == (2, 2, 8, 4)
    assert keys[1, :, 3:5].eq(1).all()
    assert (step.get_seq_length(), step.get_query_offset(), step.get_mask_sizes(2)) == (
        0,
        0,
        (2, 0),
    )
