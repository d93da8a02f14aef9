"""What every side can do: answer prompts and tell when each token came.

In: `Work`, the same for all sides. Out: an `Answer` with times, from which all figures are made.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A model to load: where it is, how precise, for how many streams of how many tokens."""

    model: str
    precision: str
    threads: int
    num_slots: int
    context_size: int
    options: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Prompts to answer greedily at once, with `new` tokens each, whatever they say.

    `late` is one more prompt, for one token, that comes when the first stream has `late_after`
    tokens. With `keeps`, what a side holds of a prompt already need not be evaluated again.
    """

    prompts: list[list[int]]
    new: int
    late: list[int] | None = None
    late_after: int = 0
    keeps: bool = False
    slot: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """For each stream, the late one last: seconds since the work was given, tokens, what was held.

    `times[i][k]` is when the step came that `counts[i][k]` tokens were told of. `began` is when a
    stream was submitted.
    """

    began: list[float]
    times: list[list[float]]
    counts: list[list[int]]
    token_ids: list[list[int]]
    num_held: list[int]

    def difference(self, work: Work) -> str:
        """What of the work was not done, as a text; "" if all was."""
        wanted = [work.new] * len(work.prompts) + ([] if work.late is None else [1])
        found = list(map(sum, self.counts))
        if len(found) == len(wanted) and all(a >= b for a, b in zip(found, wanted, strict=True)):
            return ""
        return f"{found} tokens in the streams, not {wanted}"

    @property
    def num_tokens(self) -> int:
        """New tokens of all streams."""
        return sum(map(sum, self.counts))

    @property
    def seconds(self) -> float:
        """Until the last token of all."""
        return max(times[-1] for times in self.times)

    def first(self, stream: int = 0) -> float:
        """Seconds that a stream's first token took."""
        return self.times[stream][0] - self.began[stream]

    def rate(self, stream: int = 0) -> float:
        """Tokens a second behind the first."""
        times, counts = self.times[stream], self.counts[stream]
        return sum(counts[1:]) / (times[-1] - times[0])

    def gaps(self, streams: range) -> list[float]:
        """Seconds between the steps of these streams, sorted."""
        times = [self.times[stream] for stream in streams]
        return sorted(b - a for each in times for a, b in zip(each, each[1:], strict=False))


class Side(Protocol):
    """Somebody who answers prompts. Made once in a process of its own."""

    def load(self, load: Load) -> dict[str, str]:
        """Load a model; returns what there is to tell of it."""
        ...

    def answer(self, work: Work) -> Answer:
        """Do the work."""
        ...

    def close(self) -> None:
        """Let the model go."""
        ...


def memory() -> dict[str, float]:
    """Bytes of this process: resident now, and at most so far; of the first, files in memory."""
    status = Path("/proc/self/status")
    resident = float(psutil.Process().memory_info().rss)
    peak = 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files = 0.0
    if status.exists():
        lines = [line for line in status.read_text().splitlines() if line.startswith("RssFile:")]
        files = 1024.0 * sum(float(line.split()[1]) for line in lines)
    return {"resident": resident, "peak": peak, "files": files}
