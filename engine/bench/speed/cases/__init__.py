"""The cases, group by group."""

from __future__ import annotations

from collections.abc import Callable

from speed.cases import answers, streams
from speed.plan import Case

GROUPS: dict[str, Callable[[list[str], list[str]], list[Case]]] = {
    "answers": answers.cases,
    "streams": streams.cases,
    "joining": streams.joining,
}
