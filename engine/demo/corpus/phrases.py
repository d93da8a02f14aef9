"""Expansion of one template. In: text with `[one|other]` choices and `{slots}`. Out: a sentence.

Slots: `{animal}` a word of the table, `{animal2}` another one, `{animal.food}` another column of
the same row, `{a animal}` with its article, `{A animal}` and `{Animal}` with a capital letter.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from corpus.words import Row, Words

SLOT = re.compile(
    r"\{(?:(?P<article>[aA]) )?(?P<table>[A-Za-z_]+)(?P<which>\d?)(?:\.(?P<column>\w+))?\}"
)
INNERMOST_CHOICE = re.compile(r"\[([^\[\]]*)\]")
VOWEL_SOUND = tuple("aeiouAEIOU")


def choose(rng: random.Random, template: str) -> str:
    """Replace every `[one|other]` by one of its parts, innermost first."""
    while "[" in template:
        template = INNERMOST_CHOICE.sub(lambda m: rng.choice(m[1].split("|")), template, count=1)
    return template


def capital(text: str) -> str:
    """Return the text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


@dataclass(slots=True)
class Filler:
    """Fills templates that belong together. Invariant: a slot keeps its row; no two share one."""

    rng: random.Random
    words: Words
    bound: dict[str, Row] = field(default_factory=dict)

    def fill(self, template: str) -> str:
        """Return the template with its choices made and its slots filled.

        Raises KeyError for an unknown table or column.
        """
        return SLOT.sub(self._slot, choose(self.rng, template))

    def _slot(self, match: re.Match[str]) -> str:
        table, which = match["table"], match["which"]
        row = self._row(table[0].lower() + table[1:], which)
        value = row[match["column"]] if match["column"] else next(iter(row.values()))
        if match["article"]:
            value = ("an " if value.startswith(VOWEL_SOUND) else "a ") + value
        wants_capital = table[0].isupper() or match["article"] == "A"
        return capital(value) if wants_capital else value

    def _row(self, table: str, which: str) -> Row:
        key = table + which
        taken = [row for name, row in self.bound.items() if name.rstrip("0123456789") == table]
        while key not in self.bound:
            row = self.words.pick(self.rng, table)
            if row not in taken:
                self.bound[key] = row
        return self.bound[key]
