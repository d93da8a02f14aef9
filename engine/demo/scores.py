"""Shares of right answers. In: scores by kind of question. Out: a Markdown table, a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Score:
    """Right answers to one kind of question. Invariant: `held` is None where no grammar fits."""

    kind: str
    asked: int
    free: float
    held: float | None
    seconds: float  # a question, both ways together


def table(scores: Sequence[Score]) -> str:
    """Return the scores as Markdown."""
    rows = ["| held-out questions | asked | right | with a grammar |", "|---|---|---|---|"]
    for each in scores:
        held = "" if each.held is None else f"{each.held:.0%}"
        rows.append(f"| {each.kind} | {each.asked} | {each.free:.0%} | {held} |")
    return "\n".join(rows)


def save(path: Path, scores: Sequence[Score], settings: Mapping[str, Any]) -> None:
    """Write the scores as JSON."""
    told = {**settings, "scores": [asdict(each) for each in scores]}
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> list[Score]:
    """Return the scores of a JSON file. Raises TypeError for one that is written otherwise."""
    told = json.loads(path.read_text(encoding="utf-8"))
    return [Score(**each) for each in told["scores"]]
