"""Questions about a passage. In: records and words. Out: one exchange, short or long.

The answer is what the text says, word for word and nothing else: a name, a number, `Yes`. Where the
text has no answer, it says so.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from corpus.deeds import deeds
from corpus.document import Message
from corpus.phrases import choose
from corpus.records import Fact, Kind, fact, kinds_with, question, read_kinds, subject_of
from corpus.scenes import scenes
from corpus.telling import card, fits_card, tell
from corpus.words import Words

UNKNOWN = "The text does not say."
# {t} is the text and {q} the question.
FORMATS = (
    "{t} {q}",
    "{t}\n\n{q}",
    "{t}\n{q}",
    "{q}\n\n{t}",
    "[Text|Read this|Passage]: {t}\n[Question|Q]: {q}",
    "Context: {t}\n\nQuestion: {q}",
    "[Answer|Please answer] [the question|] from the text.\n\nText: {t}\n\nQuestion: {q}\nAnswer:",
    "Use the [following |]context to answer the question.\n\n{t}\n\nQuestion: {q}",
    "[Use|Take] these pieces of [retrieved |]context to answer.\n"
    "Question: {q}\nContext: {t}\nAnswer:",
    "{t}\n\n[Based on|From] the [text|passage] above, answer: {q}",
)
KEPT_FORMATS = (
    "Here is what I know:\n{t}\n\nNow tell me: {q}",
    "Question: {q}\n\nContext: {t}\n\nAnswer:",
)
# The prompt that LlamaIndex sends by default, and what it sends with chat models.
INDEX = (
    "Context information is below.\n---------------------\n{t}\n---------------------\n"
    "Given the context information and not prior knowledge, answer the query.\n"
    "Query: {q}\nAnswer: "
)
SYSTEMS = (
    "[Answer|Reply] from [the text|this text|the context] [only|]:\n{t}",
    "[Context|What you know]:\n{t}",
    "You answer questions about a text. Text:\n\n{t}",
    "Here are the [relevant |]documents[ for the context|]:\n\n{t}\n\n"
    "[Based on the documents above, answer the question of the user.|]",
    "You are a helpful assistant. [Use|Answer from] [this|the following] context: {t}",
)
INDEX_SYSTEMS = (
    "You are [an expert|a helpful assistant]. [Always |]Answer the query [with|using] the "
    "[provided|given] context[ information|], and not prior knowledge.",
    "You are a helpful assistant.",
)
# What a text says besides.
BESIDES = (
    "It was a fine day.",
    "Nobody knows why.",
    "This is all that we know for now.",
    "The sun was shining, and the birds were singing.",
    "Many people asked about it.",
    "Here is what was found.",
    "These are the notes of last week.",
    "More will follow soon.",
    "It had rained all night.",
    "Some of this may change.",
)


About = Literal["records", "deeds", "scenes"]
ABOUT: Mapping[About, float] = {"records": 0.45, "scenes": 0.35, "deeds": 0.2}
KEPT_ABOUT: Mapping[About, float] = {"records": 0.5, "scenes": 0.5}


@dataclass(frozen=True, slots=True)
class Passage:
    """Sentences and what they say. Invariant: no two facts have subject and property in common."""

    text: str
    facts: tuple[Fact, ...]


def passage(rng: random.Random, words: Words, length: int, *, kept: bool) -> Passage:
    """Return a passage of about `length` sentences."""
    groups: list[tuple[Kind, list[Fact]]] = []
    known_kinds = kinds_with(kept=kept)
    kinds = [rng.choice(known_kinds)] if rng.random() < 0.6 else known_kinds
    while (left := length - sum(len(group) for _, group in groups)) > 0:
        kind = rng.choice(kinds)
        subject = subject_of(rng, words, kind)
        if any(subject in g[0].subject or g[0].subject in subject for _, g in groups):
            continue
        known = kind.some(kept=kept)
        some = rng.sample(known, min(rng.randint(1, 4), left, len(known)))
        groups.append((kind, [fact(rng, words, subject, of, kept=kept) for of in some]))
    facts = [each for _, group in groups for each in group]
    if kept or rng.random() < 0.35:
        parts = [each.sentence for each in facts]
        rng.shuffle(parts)
    else:
        parts = [_told(rng, group, person=kind.name == "person") for kind, group in groups]
    if rng.random() < 0.2:
        parts.insert(rng.randint(0, len(parts)), rng.choice(BESIDES))
    return Passage(_laid_out(rng, parts), tuple(facts))


def _told(rng: random.Random, group: list[Fact], *, person: bool) -> str:
    """Return facts about one subject as sentences, or as a card."""
    if rng.random() < 0.12 and fits_card(group):
        return card(rng, group)
    return tell(rng, group, person=person)


def _laid_out(rng: random.Random, parts: list[str]) -> str:
    """Return the parts as one text; those of several lines are kept apart."""
    if any("\n" in part for part in parts):
        return "\n\n".join(parts)
    gaps = rng.choice([[" "], [" "], ["\n"], ["\n\n"], [" ", " ", " ", "\n\n"]])
    return parts[0] + "".join(rng.choice(gaps) + part for part in parts[1:])


Asked = tuple[str, str]


def _missing(rng: random.Random, words: Words, read: Passage, *, kept: bool) -> Asked:
    """Return a question that the passage does not answer: about somebody else, or another thing."""
    about = rng.choice(read.facts)
    kind: Kind = next(each for each in read_kinds() if about.of in each.properties)
    subject, told = about.subject, {e.of for e in read.facts if e.subject == about.subject}
    other = subject_of(rng, words, kind)
    if about.of.questions and rng.random() < 0.5 and other not in read.text:
        return question(rng, about.of, other, kept=kept), UNKNOWN
    near = {e.of for e in read.facts if e.of.questions and e.of in kind.properties} - told
    far = [each for each in kind.properties if each not in told and each.questions]
    chosen = [each for each in kind.properties if each in near]
    of = rng.choice(chosen if chosen and rng.random() < 0.5 else far)
    return question(rng, of, subject, kept=kept), UNKNOWN


def ask(
    rng: random.Random, words: Words, read: Passage, count: int, *, kept: bool, missing: float
) -> list[Asked]:
    """Return at most `count` questions with answers; `missing` is the share of those without."""
    known = [each for each in read.facts if each.of.questions]
    rng.shuffle(known)
    made: list[Asked] = []
    for _ in range(count):
        if made and not known:
            break
        if not known or rng.random() < missing:
            made.append(_missing(rng, words, read, kept=kept))
        else:
            chosen = known.pop()
            made.append((question(rng, chosen.of, chosen.subject, kept=kept), chosen.answer))
    return made


def _index_prompt(rng: random.Random, text: str, asked: str) -> str:
    if rng.random() < 0.5:
        text = (
            f"file_path: {rng.choice(['data', 'docs', 'notes'])}/{rng.randint(1, 99)}.txt\n\n{text}"
        )
    return INDEX.replace("{t}", text).replace("{q}", asked)


def _material(
    rng: random.Random, words: Words, length: int, *, kept: bool, missing: float, about: About
) -> tuple[str, list[Asked]]:
    """Return a passage and questions about it, more of them where it is longer."""
    count = rng.randint(3, 5 + length // 3)
    if about == "records":
        read = passage(rng, words, length, kept=kept)
        return read.text, ask(rng, words, read, count, kept=kept, missing=missing)
    if about == "scenes":
        parts, made = scenes(rng, words, min(length, 20), count, kept=kept, missing=missing)
    else:
        parts, made = deeds(rng, words, min(length, 14), count, missing=missing)
    if rng.random() < 0.2:
        parts.insert(rng.randint(0, len(parts)), rng.choice(BESIDES))
    return _laid_out(rng, parts), [(asked, answer or UNKNOWN) for asked, answer in made]


def reading(
    rng: random.Random,
    words: Words,
    length: int,
    *,
    kept: bool = False,
    missing: float = 0.22,
    about: About | None = None,
) -> list[Message]:
    """Return a passage of `length` sentences with some questions, each answered.

    The longer the passage, the more questions, so that reading it is worth the while. `about` is
    what it is made of, any of all if None.
    """
    shares = KEPT_ABOUT if kept else ABOUT
    about = about or rng.choices(list(shares), list(shares.values()))[0]
    text, made = _material(rng, words, length, kept=kept, missing=missing, about=about)
    (asked, answer), *later = made
    style = rng.random()
    if style < 0.3:
        messages = [Message("user", _index_prompt(rng, text, asked))]
        if rng.random() < 0.35:
            messages.insert(0, Message("system", choose(rng, rng.choice(INDEX_SYSTEMS))))
    elif style < 0.45:
        system = choose(rng, rng.choice(SYSTEMS)).replace("{t}", text).strip()
        messages = [Message("system", system), Message("user", asked)]
    else:
        form = choose(rng, rng.choice(KEPT_FORMATS if kept else FORMATS))
        messages = [Message("user", form.replace("{t}", text).replace("{q}", asked))]
    messages.append(Message("assistant", answer))
    for asked, answer in later:
        messages += [Message("user", asked), Message("assistant", answer)]
    return messages
