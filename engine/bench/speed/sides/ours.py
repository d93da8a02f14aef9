"""libertai_engine through its Python API.

In: a model folder. Out: answers of its streams, and what only this engine has: slots that can be
saved, moved and restored.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from libertai_engine import Engine, EngineConfig, Request, SamplingParams, load_engine
from libertai_engine.sequence import Delta, Finish
from libertai_engine.stream import Stream
from speed.sides.base import Answer, Load, Work

UNTIL_END = SamplingParams(temperature=0.0, repeat_penalty=1.0)
GREEDY = replace(UNTIL_END, ignore_eos=True)


@dataclass(slots=True)
class _Track:
    """What came of one stream so far."""

    began: float = 0.0
    times: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    finish: Finish | None = None

    def note(self, delta: Delta, begin: float) -> None:
        """Take the news of one step."""
        self.times.append(time.perf_counter() - begin)
        self.counts.append(len(delta.tokens))
        self.token_ids += [token.token_id for token in delta.tokens]
        self.finish = delta.finish

    def whole_counts(self) -> list[int]:
        """Tokens of each step. NOTE: half a character's token is told of one step late or more."""
        assert self.finish is not None
        counts = [max(1, self.counts[0]), *self.counts[1:]]
        counts[-1] += self.finish.num_generated - sum(counts)
        return counts


class Ours:
    """One engine. Invariant: at most one piece of work at a time."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine, once it is loaded."""
        assert self._engine is not None
        return self._engine

    def load(self, load: Load) -> dict[str, str]:
        """Load the model and start an engine."""
        self._engine = load_engine(
            EngineConfig(
                model=load.model,
                dtype=load.precision,
                threads=load.threads,
                num_slots=load.num_slots,
                context_size=load.context_size,
                **load.options,
            ),
            progress=False,
        )
        return {"precision": load.precision}

    def answer(self, work: Work) -> Answer:
        """Submit all prompts together, read them as they come."""
        tracks = [_Track() for _ in work.prompts]
        begin = time.perf_counter()
        requests = [
            request_of(ids, work.new, index=index, keeps=work.keeps, slot=work.slot)
            for index, ids in enumerate(work.prompts)
        ]
        reader: threading.Thread | None = None
        for delta in self.engine.submit(*requests):
            tracks[delta.index].note(delta, begin)
            is_due = len(tracks[0].times) >= work.late_after and reader is None
            if work.late is not None and is_due:
                tracks.append(_Track(began=time.perf_counter() - begin))
                stream = self.engine.submit(request_of(work.late, 1))
                reader = threading.Thread(target=_read, args=(stream, tracks[-1], begin))
                reader.start()
        if reader is not None:
            reader.join()
        return Answer(
            began=[track.began for track in tracks],
            times=[track.times for track in tracks],
            counts=[track.whole_counts() for track in tracks],
            token_ids=[track.token_ids for track in tracks],
            num_held=[track.finish.num_cached for track in tracks if track.finish],
        )

    def save_slot(self, slot: int, path: str) -> None:
        """Write a slot to a file."""
        self.engine.save_slot(slot, Path(path))

    def restore_slot(self, slot: int, path: str) -> None:
        """Fill a slot from a file."""
        self.engine.restore_slot(slot, Path(path))

    def erase_slot(self, slot: int) -> None:
        """Forget what a slot holds."""
        self.engine.erase_slot(slot)

    def close(self) -> None:
        """Stop the engine, if it was started."""
        if self._engine is not None:
            self._engine.close()


def request_of(
    ids: list[int], new: int, *, index: int = 0, keeps: bool = False, slot: int | None = None
) -> Request:
    """One prompt, answered greedily with `new` tokens."""
    return Request(
        prompt_ids=tuple(ids),
        sampling=GREEDY,
        max_tokens=new,
        cache_prompt=keeps,
        index=index,
        slot=slot,
    )


def _read(stream: Stream, track: _Track, begin: float) -> None:
    for delta in stream:
        track.note(delta, begin)
