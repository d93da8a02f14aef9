"""A step of few tokens in native calls, on the lanes that the module uses too.

In: `DecoderParts`, lanes, a `Batch`. Out: float32 logits; keys and values are in their lanes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from libertai_engine.errors import GenerationFailed
from libertai_engine.kernels.library import Library
from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.decoder_parts import DecoderParts
from libertai_engine.model.decoder_questions import NotLean
from libertai_engine.model.lean_structs import StepStruct, lanes_struct, shape_struct
from libertai_engine.model.packing import places_of_logits

MAX_TOKENS = 128
"""Tokens of one call, which reads the weights once.

A prompt of up to so many tokens is read natively. How many times as fast as by transformers'
module, with weights of 1.1 billion and 60 million numbers, in one piece on one thread:

| tokens | bf16 | int8 | fp32 |
|---|---|---|---|
| 32 | 1.29, 1.95 | 1.15, 1.54 | 1.55, 1.95 |
| 64 | 1.15, 1.39 | 1.11, 1.31 | 1.31, 1.32 |
| 128 | 1.01, 1.07 | 1.09, 1.14 | 1.13, 1.11 |
| 256 | 0.92, 0.91 | 1.06, 1.00 | 1.06, 0.94 |
"""

Lane = tuple[Tensor, Tensor]


class LeanDecoder:
    """One decoder on one set of lanes.

    Invariant: the native object lives as long as this one, which keeps all memory it names. A
    token's logits depend on its lane alone, bit for bit: not on its neighbours in a step, nor on
    how that is cut into calls, nor on the number of threads. Not thread-safe.
    """

    def __init__(self, library: Library, parts: DecoderParts, lanes: Sequence[Lane]) -> None:
        """Raises `NotLean` for lanes of another form, `MemoryError` if there is none left."""
        _check_lanes(parts, lanes)
        self._parts, self._lanes = parts, tuple(lanes)
        self._handle = library.handle
        keys, values = zip(*lanes, strict=True)
        is_bf16 = keys[0].dtype == torch.bfloat16
        shape = shape_struct(parts, MAX_TOKENS)
        where = lanes_struct(keys, values, is_bf16=is_bf16)
        self._handle.libertai_decoder_new.restype = ctypes.c_void_p
        self._decoder = ctypes.c_void_p(
            self._handle.libertai_decoder_new(ctypes.byref(shape), ctypes.byref(where))
        )
        if not self._decoder:
            raise MemoryError("no memory for the buffers of a step")
        self._ids: Any = (ctypes.c_int32 * MAX_TOKENS)()
        self._kept: Any = (ctypes.c_int32 * MAX_TOKENS)()
        self._runs: Any = (ctypes.c_int32 * (4 * MAX_TOKENS))()
        arrays = (self._ids, self._runs, self._kept)
        self._step = StepStruct(0, 0, 0, 0, *map(ctypes.addressof, arrays), None, None)

    def __del__(self) -> None:
        decoder = getattr(self, "_decoder", None)
        if decoder:
            self._handle.libertai_decoder_free(decoder)

    def run(self, batch: Batch) -> Tensor:
        """Evaluate all tokens; `[wanted logits, vocab]`, in row order.

        Raises `GenerationFailed` if memory runs out.
        """
        if batch.num_tokens <= MAX_TOKENS:
            return self._call(batch)
        return torch.cat([self._call(each) for each in _calls(batch)])

    def _call(self, batch: Batch) -> Tensor:
        """At most `MAX_TOKENS` tokens."""
        ids = [each for row in batch.rows for each in row.token_ids]
        kept = places_of_logits(batch)
        logits = torch.empty(len(kept), self._parts.head.rows)  # [wanted logits, vocab]
        embedded = self._embed(ids)
        self._describe(batch, ids, kept)
        step = self._step
        step.threads = torch.get_num_threads()
        step.embedded = None if embedded is None else embedded.data_ptr()
        step.logits = logits.data_ptr()
        if self._handle.libertai_decoder_step(self._decoder, ctypes.byref(step)):
            raise GenerationFailed("no memory for this step")
        return logits

    def _describe(self, batch: Batch, ids: list[int], kept: list[int]) -> None:
        """Write tokens, runs and wishes to where the step reads them."""
        runs: list[int] = []
        first = 0
        for row in batch.rows:
            count = len(row.token_ids)
            runs += (row.slot, first, count, row.start)
            first += count
        self._ids[: len(ids)] = ids
        self._runs[: len(runs)] = runs
        self._kept[: len(kept)] = kept
        step = self._step
        step.tokens, step.runs, step.wanted = len(ids), len(batch.rows), len(kept)

    @torch.inference_mode()
    def _embed(self, ids: list[int]) -> Tensor | None:
        """What the embedding makes of the ids, `[T, hidden]`; None if the step reads its table."""
        if self._parts.table is not None:
            return None
        vectors: Tensor = self._parts.embed(torch.tensor(ids))
        return vectors.float().contiguous()


def _calls(batch: Batch) -> Iterator[Batch]:
    """The same tokens in the same order, at most `MAX_TOKENS` at once; long rows are cut."""
    rows: list[Row] = []
    room = MAX_TOKENS
    for row in batch.rows:
        last = 0
        while last < len(row.token_ids):
            first, last = last, min(last + room, len(row.token_ids))
            rows.append(_cut(row, first, last))
            room -= last - first
            if not room:
                yield Batch(tuple(rows))
                rows, room = [], MAX_TOKENS
    if rows:
        yield Batch(tuple(rows))


def _cut(row: Row, first: int, last: int) -> Row:
    """Tokens `[first, last)` of a row, and what logits are wanted of them."""
    num_logits = last - max(first, len(row.token_ids) - row.num_logits)
    token_ids = row.token_ids[first:last]
    return replace(row, start=row.start + first, token_ids=token_ids, num_logits=max(0, num_logits))


def _check_lanes(parts: DecoderParts, lanes: Sequence[Lane]) -> None:
    """Native code trusts these."""
    if len(lanes) != len(parts.layers):
        raise NotLean("layers that share lanes")
    first = lanes[0][0]
    if first.dtype not in (torch.float32, torch.bfloat16) or not first.is_contiguous():
        raise NotLean(f"lanes of type {first.dtype}")
    if first.shape[1] != parts.kv_heads or first.shape[3] != parts.head_dim:
        raise NotLean("lanes of another shape")
    for lane in (lane for pair in lanes for lane in pair):
        if (lane.shape, lane.dtype, lane.stride()) != (first.shape, first.dtype, first.stride()):
            raise NotLean("lanes of different shapes")
