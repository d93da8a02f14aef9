"""Facts about one subject as a text. In: facts of `records.py`. Out: sentences, or a card.

Sentences that open with the subject may be joined, take a pronoun, or become a clause; a card has
one property on each line.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from corpus.phrases import capital
from corpus.records import Fact

PERSONS = ("He", "She")
CARDS = (
    ("{S}\n", "{N}: {v}", "\n"),
    ("{S}:\n", "- {n}: {v}", "\n"),
    ("{S} (", "{n}: {v}", ", "),
    ("{S} | ", "{n}: {v}", " | "),
    ("# {S}\n", "* {N} = {v}", "\n"),
    ("{S}, ", "{n} {v}", ", "),
)


def fits_card(facts: Sequence[Fact]) -> bool:
    """Return whether a card can tell all these facts."""
    return all(each.of.type != "boolean" for each in facts)


def tell(rng: random.Random, facts: Sequence[Fact], *, person: bool) -> str:
    """Return what some facts about one subject say, in sentences."""
    start = f"{capital(facts[0].subject)} "
    pronoun = f"{rng.choice(PERSONS) if person else 'It'} "
    told: list[str] = []
    rest = [each.sentence for each in facts]
    while rest:
        count = _joinable(rest, start)
        count = rng.choice([1, 1, *range(1, min(count, 3) + 1)]) if count else 0
        if count < 2:
            sentence = rest.pop(0)
        else:
            parts = [each.removeprefix(start)[:-1] for each in rest[:count]]
            sentence, rest = start + _joined(rng, parts), rest[count:]
        if told and sentence.startswith(start) and rng.random() < 0.4:
            sentence = pronoun + sentence.removeprefix(start)
        told.append(sentence)
    return " ".join(told)


def _joinable(rest: Sequence[str], start: str) -> int:
    """Return how many sentences from here on open with the subject and its verb."""
    for at, each in enumerate(rest):
        verb = each.removeprefix(start).split(" ")[0]
        if not each.startswith(start) or ". " in each or not verb.isalpha():
            return at
    return len(rest)


def _joined(rng: random.Random, parts: Sequence[str]) -> str:
    """Return two or three ends of sentences as one, with its full stop."""
    style = rng.random()
    if len(parts) == 2 and style < 0.2:
        return f"{parts[0]}, and also {parts[1]}."
    return f"{', '.join(parts[:-1])} and {parts[-1]}."


def card(rng: random.Random, facts: Sequence[Fact]) -> str:
    """Return facts as a list of their nouns and values under the name of the subject."""
    head, form, gap = rng.choice(CARDS)
    lines = [
        form.replace("{n}", each.of.noun).replace("{N}", capital(each.of.noun)) for each in facts
    ]
    told = gap.join(f.replace("{v}", e.text) for f, e in zip(lines, facts, strict=True))
    end = ")" if head.endswith("(") else "." if head.endswith(", ") else ""
    return head.replace("{S}", capital(facts[0].subject)) + told + end
