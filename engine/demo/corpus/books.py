"""Books of example exchanges. In: books/*.txt. Out: blocks of lines, and exchanges filled in.

A block is a group of lines; each line opens with its mark: `!` the system message, `?` the user,
`=` the assistant, `~` a gap where other exchanges may come. Neighbouring lines with one mark are
alternatives. A line break inside a message is written `\\n`. A file opens with `% weight`; lines
with `#` are remarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import cast

from corpus.document import Message, Role
from corpus.phrases import Filler

BOOKS = Path(__file__).parent / "books"
ROLES: dict[str, Role] = {"!": "system", "?": "user", "=": "assistant"}
GAP = "~"


@dataclass(frozen=True, slots=True)
class Step:
    """One place of a block. Invariant: a gap has no templates, everything else has at least one."""

    mark: str
    templates: tuple[str, ...]


Block = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Book:
    """The blocks of one file. Invariant: users and assistants take turns in every block."""

    name: str
    weight: float
    blocks: tuple[Block, ...]


def parse_block(lines: Sequence[str]) -> Block:
    """Return the steps of one block. Raises ValueError for a line without a known mark."""
    for line in lines:
        if line[0] not in (*ROLES, GAP) or (line[0] != GAP and line[1] != " "):
            raise ValueError(f"not a line of a block: {line!r}")
    groups = groupby(lines, key=lambda line: line[0])
    block = tuple(
        Step(mark, tuple(line[2:].replace("\\n", "\n") for line in group if mark != GAP))
        for mark, group in groups
    )
    spoken = "".join(step.mark for step in block if step.mark in "?=")
    if spoken != "?=" * (len(spoken) // 2):
        raise ValueError(f"user and assistant do not take turns: {lines[0]!r}")
    return block


def read_book(path: Path) -> Book:
    """Return one book. Raises ValueError when the weight or a mark is missing."""
    head, *rest = path.read_text(encoding="utf-8").splitlines()
    if not head.startswith("% "):
        raise ValueError(f"{path.name} does not open with its weight")
    lines = [line for line in rest if not line.startswith("#")]
    groups = groupby(lines, key=lambda line: bool(line.strip()))
    blocks = tuple(parse_block(list(group)) for filled, group in groups if filled)
    return Book(path.stem, float(head[2:]), blocks)


def read_books() -> dict[str, Book]:
    """Return all books by name."""
    return {path.stem: read_book(path) for path in sorted(BOOKS.glob("*.txt"))}


def perform(block: Block, filler: Filler) -> list[Message | None]:
    """Return the messages of a block, filled in; None stands for a gap."""
    played: list[Message | None] = []
    for step in block:
        if step.mark == GAP:
            played.append(None)
        else:
            text = filler.fill(filler.rng.choice(step.templates))
            played.append(Message(cast(Role, ROLES[step.mark]), text.strip()))
    return played
