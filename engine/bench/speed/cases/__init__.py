"""The cases, group by group."""

from __future__ import annotations

from collections.abc import Callable

from speed.cases import answers, engine, prefix, steered, streams
from speed.plan import Case, Scope

GROUPS: dict[str, Callable[[Scope], list[Case]]] = {
    "answers": answers.cases,
    "streams": streams.cases,
    "joining": streams.joining,
    "prefix": prefix.cases,
    "lookup": steered.lookup,
    "constrained": steered.constrained,
    "sampler": engine.sampler,
    "http": engine.http,
    "memory": engine.memory,
    "context": engine.context,
    "slots": engine.slots,
}
