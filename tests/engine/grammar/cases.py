"""The verdicts that grammars are held to, out of the files in `data/`.

In: the name of a file. Out: grammars with the answers they accept and reject.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

DATA = Path(__file__).parent / "data"
SPECIAL_TOKENS = {"<think>": 3, "</think>": 4}  # by which grammars in the files name tokens
VERDICT_FILES = ("files", "integration", "features", "parser")

Answer: TypeAlias = tuple[str | int, ...]  # text and ids of tokens


@dataclass(frozen=True, slots=True)
class Case:
    """A grammar that can be used, and which answers it accepts or rejects."""

    name: str
    grammar: str
    accept: tuple[Answer, ...] = ()
    reject: tuple[Answer, ...] = ()

    def verdicts(self) -> list[tuple[Answer, bool]]:
        """Every answer, and whether it is accepted."""
        good = [(answer, True) for answer in self.accept]
        return good + [(answer, False) for answer in self.reject]


@dataclass(frozen=True, slots=True)
class HostileCase:
    """A grammar made to exhaust somebody. Either `refusal` tells why it is refused, or it runs
    along `answer`.
    """

    name: str
    grammar: str
    refusal: str | None
    answer: str


def rows_of(file: str) -> list[dict[str, Any]]:
    """The objects in a data file."""
    rows: list[dict[str, Any]] = json.loads((DATA / f"{file}.json").read_text("utf-8"))
    return rows


def cases_of(file: str) -> list[Case]:
    """The usable grammars in a data file."""
    return [_case(row) for row in rows_of(file) if row.get("is_valid", True)]


def hostile_cases() -> list[HostileCase]:
    """Grammars made to exhaust somebody, at their full size."""
    return [
        HostileCase(
            row["name"], grown(row["grammar"]), row.get("refusal"), grown(row.get("answer"))
        )
        for row in rows_of("hostile")
    ]


def grown(parts: list[tuple[str, int]] | None) -> str:
    """Each text as often as it says, with its number, the next one and a code point in place."""
    return "".join(
        _numbered(text, number) for text, times in parts or [] for number in range(times)
    )


def _numbered(text: str, number: int) -> str:
    if "$" not in text:
        return text
    code_point = f"{0x4E00 + 2 * number:05X}"
    return text.replace("$i", str(number)).replace("$j", str(number + 1)).replace("$x", code_point)


def _case(row: dict[str, Any]) -> Case:
    answers = (
        tuple(
            (entry,) if isinstance(entry, str) else tuple(entry) for entry in row.get(verdict, ())
        )
        for verdict in ("accept", "reject")
    )
    return Case(row["name"], row["grammar"], *answers)
