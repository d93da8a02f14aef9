"""llama.cpp through its Python package: the C functions themselves, so that nothing is in its way.

In: a GGUF file. Out: answers of its decoder and its greedy sampler. Streams share batches as in its
server: a token of each running stream, and prompts in what is left of a batch.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass, field
from typing import Any

import llama_cpp

from speed.sides.base import Answer, Load, Work

BATCH_SIZE = 512
SILENT = llama_cpp.llama_log_callback(lambda level, text, data: None)


@dataclass(slots=True)
class _Stream:
    """A prompt and its answer. `num_done` tokens of both together lie in the cache."""

    index: int
    token_ids: list[int]
    num_left: int
    began: float
    num_done: int = 0
    num_held: int = 0
    answer: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


class LlamaCpp:
    """One context with a sequence for each stream. Flash attention and threads as it sees fit."""

    def __init__(self) -> None:
        llama_cpp.llama_log_set(SILENT, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._model: Any = None
        self._context: Any = None
        self._held: dict[int, list[int]] = {}

    def load(self, load: Load) -> dict[str, str]:
        """Map the file; weights are repacked for this processor as by default."""
        params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(load.model.encode(), params)
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx = load.context_size * load.num_slots
        wanted.n_seq_max = load.num_slots
        wanted.n_batch = wanted.n_ubatch = BATCH_SIZE
        wanted.n_threads = wanted.n_threads_batch = load.threads
        self._context = llama_cpp.llama_init_from_model(self._model, wanted)
        if not self._context:
            raise RuntimeError(f"llama.cpp cannot load {load.model}")
        self._batch = llama_cpp.llama_batch_init(BATCH_SIZE, 0, load.num_slots)
        chain = llama_cpp.llama_sampler_chain_default_params()
        self._sampler = llama_cpp.llama_sampler_chain_init(chain)
        llama_cpp.llama_sampler_chain_add(self._sampler, llama_cpp.llama_sampler_init_greedy())
        told = llama_cpp.llama_print_system_info().decode()
        return {"version": llama_cpp.__version__, "features": told}

    def answer(self, work: Work) -> Answer:
        """All prompts at once."""
        begin = time.perf_counter()
        streams = [
            _Stream(index, list(ids), work.new, 0.0) for index, ids in enumerate(work.prompts)
        ]
        for stream in streams:
            self._begin(stream, keeps=work.keeps)
        late = work.late
        while any(stream.num_left for stream in streams):
            if late is not None and len(streams[0].times) >= work.late_after:
                streams.append(_Stream(len(streams), list(late), 1, time.perf_counter() - begin))
                self._begin(streams[-1], keeps=False)
                late = None
            self._step(streams, begin)
        for stream in streams:
            self._held[stream.index] = (stream.token_ids + stream.answer)[: stream.num_done]
        return Answer(
            began=[stream.began for stream in streams],
            times=[stream.times for stream in streams],
            counts=[[1] * len(stream.times) for stream in streams],
            token_ids=[stream.answer for stream in streams],
            num_held=[stream.num_held for stream in streams],
        )

    def _begin(self, stream: _Stream, *, keeps: bool) -> None:
        """Empty its lane, but for what may be kept."""
        held = self._held.pop(stream.index, [])
        shared = 0
        if keeps:
            most = min(len(held), len(stream.token_ids) - 1)
            while shared < most and held[shared] == stream.token_ids[shared]:
                shared += 1
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_seq_rm(memory, stream.index, shared, -1)
        stream.num_done = stream.num_held = shared

    def _step(self, streams: list[_Stream], begin: float) -> None:
        """One batch: decoding streams first, then prompts as far as there is room."""
        open_ones = [stream for stream in streams if stream.num_left]
        open_ones.sort(key=lambda stream: not stream.answer)
        places: list[tuple[_Stream, int]] = []
        size = 0
        for stream in open_ones:
            ids = stream.token_ids + stream.answer
            end = min(len(ids), stream.num_done + BATCH_SIZE - size)
            for position in range(stream.num_done, end):
                self._add(size, ids[position], position, stream.index, position == len(ids) - 1)
                size += 1
            stream.num_done = end
            if end == len(ids):
                places.append((stream, size - 1))
        self._batch.n_tokens = size
        if llama_cpp.llama_decode(self._context, self._batch):
            raise RuntimeError("llama_decode failed")
        for stream, place in places:
            token_id = llama_cpp.llama_sampler_sample(self._sampler, self._context, place)
            stream.answer.append(token_id)
            stream.num_left -= 1
            stream.times.append(time.perf_counter() - begin)

    def _add(self, place: int, token_id: int, position: int, lane: int, wants: bool) -> None:
        batch = self._batch
        batch.token[place] = token_id
        batch.pos[place] = position
        batch.n_seq_id[place] = 1
        batch.seq_id[place][0] = lane
        batch.logits[place] = wants

    def close(self) -> None:
        """Free context and model."""
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)
