"""Tables of words, and values made up on the spot. In: tables/*.txt, a random generator. Out: rows.

A table is a text file: a line with the names of its columns, then one row a line, columns parted
by `|`. A value of an open table is either for training or held out, for ever: its checksum decides.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from corpus.values import MADE_UP

Split = Literal["train", "heldout"]
Row = Mapping[str, str]

TABLES = Path(__file__).parent / "tables"
# Tables in which a third of the words is made up: what is said must be read, not known by heart.
INVENTIVE_TABLES = frozenset({"name", "pet"})
OPEN_TABLES = frozenset({"name", "thing", "place", "pet"})


def is_held_out(value: str) -> bool:
    """Return whether a value of an open set never occurs in training (one in ten)."""
    return zlib.crc32(value.encode()) % 10 == 0


def read_table(path: Path) -> tuple[Row, ...]:
    """Return the rows of one table. Raises ValueError for a row of another width."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    columns = [column.strip() for column in lines[0].split("|")]
    cells = [[cell.strip() for cell in line.split("|")] for line in lines[1:]]
    return tuple(dict(zip(columns, row, strict=True)) for row in cells)


@dataclass(frozen=True, slots=True)
class Words:
    """All tables of one split. Invariant: rows of open tables belong to this split only."""

    split: Split
    tables: Mapping[str, tuple[Row, ...]]

    @classmethod
    def load(cls, split: Split) -> Words:
        """Read every table and keep what belongs to the split."""
        tables = {path.stem: read_table(path) for path in sorted(TABLES.glob("*.txt"))}
        for name in OPEN_TABLES:
            key = next(iter(tables[name][0]))
            tables[name] = tuple(row for row in tables[name] if cls._belongs(row[key], split))
        return cls(split, tables)

    @staticmethod
    def _belongs(value: str, split: Split) -> bool:
        return is_held_out(value) == (split == "heldout")

    def has(self, value: str) -> bool:
        """Return whether a made-up value belongs to this split."""
        return self._belongs(value, self.split)

    def pick(self, rng: random.Random, table: str) -> Row:
        """Return a random row of a table, or a made-up value. KeyError: no such table."""
        if table in INVENTIVE_TABLES and rng.random() < 0.35:
            return {table: self._made_up(rng, "word").capitalize()}
        if table in MADE_UP:
            return {table: self._made_up(rng, table)}
        return rng.choice(self.tables[table])

    def _made_up(self, rng: random.Random, kind: str) -> str:
        while not self.has(value := MADE_UP[kind](rng)):
            pass
        return value


def table_words() -> frozenset[str]:
    """Return every word of every table, of both splits: what questions are about."""
    rows = [row for path in TABLES.glob("*.txt") for row in read_table(path)]
    return frozenset(value for row in rows for value in row.values())
