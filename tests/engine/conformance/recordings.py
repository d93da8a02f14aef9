"""What real servers answered, and the same questions put to ours.

In: `cassettes/reference/*.json`. Out: `Recording`s in file order, and our `Reply` to each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import load_engine
from tests.engine.serving import Reply, Running, running

FOLDER = Path(__file__).resolve().parents[3] / "cassettes" / "reference"
MODEL = FOLDER / "model"


@dataclass(frozen=True)
class Recording:
    """One request and the answer to it, as it came. `request` is None where there is no body."""

    name: str
    method: str
    path: str
    request: dict[str, Any] | None
    status: int
    content_type: str
    answer: str

    @property
    def kind(self) -> str:
        """What it measures: the first part of its name."""
        return self.name.partition("/")[0]

    @property
    def body(self) -> dict[str, Any]:
        return self.request or {}

    @property
    def is_completion(self) -> bool:
        return self.path == "/completion"

    @property
    def is_stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def is_sampled(self) -> bool:
        """Whether the text depends on random numbers."""
        return self.is_completion and self.body.get("temperature", 0.8) > 0

    @property
    def events(self) -> list[Any]:
        """The JSON objects of the answer: one, or those of the stream."""
        if not self.is_stream:
            return [json.loads(self.answer)]
        lines = [line for line in self.answer.split("\n") if line]
        assert all(line.startswith("data: ") for line in lines), self.name
        return [json.loads(line.removeprefix("data: ")) for line in lines]


def load_recordings(file: str = "answers.json") -> list[Recording]:
    """All of a file, in the order in which they were made."""
    found = json.loads((FOLDER / file).read_text(encoding="utf-8"))
    return [Recording(**each) for each in found]


def same_question(recording: Recording) -> dict[str, Any]:
    """The body for our server.

    NOTE: for `n_predict` N (3 or more) that server gave N + 1 tokens, so ours is asked for those.
    What it drew by chance is drawn with a seed here, so that this run is like the last one.
    """
    body = dict(recording.body)
    if "n_predict" in body:
        assert body["n_predict"] >= 3
        body["n_predict"] += 1
    if recording.is_sampled:
        body.setdefault("seed", 1)
    return body


@contextmanager
def serving_reference(context_size: int, num_slots: int = 2) -> Iterator[Running]:
    """Our server with the measuring model, as it was run for the recordings."""
    config = EngineConfig(
        model=str(MODEL),
        alias="reference",
        dtype="fp32",
        device="cpu",
        context_size=context_size,
        num_slots=num_slots,
        max_draft=0,  # whether `timings` tell of drafts depends on the time
    )
    with load_engine(config, progress=False) as engine, running(CompletionAPI(engine)) as server:
        yield server


def replay(recording: Recording, server: Running) -> Reply:
    """Our answer over HTTP."""
    if recording.method == "GET":
        return server.get(recording.path)
    return server.post(recording.path, same_question(recording))
