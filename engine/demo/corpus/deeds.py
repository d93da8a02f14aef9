"""What people did: sentences of many verbs, with questions. In: words. Out: a text, questions.

Records say a few things in many ways; here anybody does anything to anything, so that the question
and the sentence that answers it must be matched word by word. The answer is who, what, where or
when, as the sentence has it, without `in`, `on` and `at`.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from corpus.phrases import Filler, capital
from corpus.words import Row, Words

OBJECTS = ("the {colour} {thing}", "the {thing}", "the {animal}", "the {word}", "{a thing}")
PEOPLE = ("{name}", "{name}", "{person}", "the {job}", "the {adjective} {animal}")
PLACES = ("in the {place}", "in {city}", "near the {place}", "behind the {place}", "in {country}")
TIMES = ("on {day}", "in {year}", "at {clock}", "in {month}", "on {date}")
# {w} who, {p} past, {k} as `was …`, {n} now, {o} what, {l} where, {t} when.
SENTENCES = (
    "{w} {p} {o} {l} {t}.",
    "{w} {p} {o} {l}.",
    "{w} {p} {o} {t}.",
    "{w} {p} {o}.",
    "{T}, {w} {p} {o} {l}.",
    "{L}, {w} {p} {o}.",
    "{L}, {w} {p} {o} {t}.",
    "{o} was {k} by {w} {l}.",
    "{o} was {k} by {w} {t}.",
    "It was {w} who {p} {o} {l}.",
)
BEFORE = re.compile(r"^(in|on|at) ")
WHO = ("Who {p} {o}?", "By whom was {o} {k}?", "Who was it that {p} {o}?")
WHAT = ("What did {w} {n}?", "What was {k} by {w}?", "What was it that {w} {p}?")
WHERE = ("Where did {w} {n} {o}?", "Where was {o} {k}?", "In what place did {w} {n} {o}?")
WHEN = ("When did {w} {n} {o}?", "When was {o} {k}?", "At what time did {w} {n} {o}?")


@dataclass(frozen=True, slots=True)
class Deed:
    """Somebody did something. Invariant: every answer is a part of the sentence."""

    sentence: str
    asked: tuple[tuple[str, str], ...]  # questions with their answers


def _deed(rng: random.Random, words: Words, verb: Row) -> Deed:
    """Return a sentence, and the questions that it answers."""
    filler = Filler(rng, words)
    parts = {"n": verb["verb"], "p": verb["past"], "k": verb["passive"]}
    for name, templates in (("w", PEOPLE), ("o", OBJECTS), ("l", PLACES), ("t", TIMES)):
        parts[name] = filler.fill(rng.choice(templates))
    form = rng.choice(SENTENCES)
    asked = {"w": WHO, "o": WHAT}
    asked |= {"l": WHERE} if "{l}" in form or "{L}" in form else {}
    asked |= {"t": WHEN} if "{t}" in form or "{T}" in form else {}
    return Deed(
        _put(form, parts),
        tuple(
            (_put(rng.choice(questions), parts), BEFORE.sub("", parts[name]))
            for name, questions in asked.items()
        ),
    )


def _put(template: str, parts: dict[str, str]) -> str:
    for name, value in parts.items():
        template = template.replace(f"{{{name}}}", value)
        template = template.replace(f"{{{name.upper()}}}", capital(value))
    return capital(template)


def deeds(
    rng: random.Random, words: Words, length: int, count: int, *, missing: float
) -> tuple[list[str], list[tuple[str, str]]]:
    """Return sentences, and `count` questions with answers; some have none."""
    # Where all do the same, only who and what tell the sentences apart.
    few = [words.pick(rng, "verb") for _ in range(rng.choice([1, 2, 4, 20, 20]))]
    told = [_deed(rng, words, rng.choice(few)) for _ in range(length)]
    left = [asked for each in told for asked in each.asked]
    rng.shuffle(left)
    made = []
    for _ in range(count):
        if not left or rng.random() < missing:
            asked, _ = rng.choice(_deed(rng, words, rng.choice(few)).asked)
            made.append((asked, ""))
        else:
            made.append(left.pop())
    return [each.sentence for each in told], made
