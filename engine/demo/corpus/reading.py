"""Questions about a passage. In: records and words. Out: one exchange, short or long.

The answer stands in one sentence among others; where it does not, the answer says so.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from corpus.document import Message
from corpus.phrases import choose
from corpus.records import Fact, Kind, fact, question, read_kinds, subject_of
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


@dataclass(frozen=True, slots=True)
class Passage:
    """Sentences and what they say. Invariant: no two facts have subject and property in common."""

    text: str
    facts: tuple[Fact, ...]


def passage(rng: random.Random, words: Words, length: int, *, kept: bool) -> Passage:
    """Return a passage of about `length` sentences."""
    facts: list[Fact] = []
    kinds = [rng.choice(read_kinds())] if rng.random() < 0.6 else list(read_kinds())
    while len(facts) < length:
        kind = rng.choice(kinds)
        subject = subject_of(rng, words, kind)
        if any(subject in each.subject or each.subject in subject for each in facts):
            continue
        known = kind.some(kept=kept)
        some = rng.sample(known, min(rng.randint(1, 4), length - len(facts), len(known)))
        facts += [fact(rng, words, subject, of, kept=kept) for of in some]
    if rng.random() < 0.5:
        rng.shuffle(facts)
    parts = [each.sentence for each in facts]
    gaps = rng.choice([[" "], [" "], ["\n"], [" ", " ", " ", "\n\n"]])
    text = parts[0] + "".join(rng.choice(gaps) + part for part in parts[1:])
    return Passage(text, tuple(facts))


def _missing(rng: random.Random, read: Passage, *, kept: bool) -> tuple[str, str]:
    """Return a question that the passage does not answer."""
    about = rng.choice(read.facts)
    told = {each.of for each in read.facts if each.subject == about.subject}
    kind: Kind = next(each for each in read_kinds() if about.of in each.properties)
    of = rng.choice([each for each in kind.properties if each not in told and each.questions])
    return question(rng, of, about.subject, kept=kept), UNKNOWN


def ask(rng: random.Random, read: Passage, *, kept: bool, missing: float) -> tuple[str, str]:
    """Return a question and its answer; `missing` is the share of those without one."""
    known = [each for each in read.facts if each.of.questions]
    if not known or rng.random() < missing:
        return _missing(rng, read, kept=kept)
    chosen = rng.choice(known)
    return question(rng, chosen.of, chosen.subject, kept=kept), chosen.answer


def _index_prompt(rng: random.Random, read: Passage, asked: str) -> str:
    text = read.text
    if rng.random() < 0.5:
        text = (
            f"file_path: {rng.choice(['data', 'docs', 'notes'])}/{rng.randint(1, 99)}.txt\n\n{text}"
        )
    return INDEX.replace("{t}", text).replace("{q}", asked)


def reading(
    rng: random.Random, words: Words, length: int, *, kept: bool = False, missing: float = 0.15
) -> list[Message]:
    """Return a passage of `length` sentences with one to three questions, each answered."""
    read = passage(rng, words, length, kept=kept)
    asked, answer = ask(rng, read, kept=kept, missing=missing)
    style = rng.random()
    if style < 0.3:
        messages = [Message("user", _index_prompt(rng, read, asked))]
        if rng.random() < 0.35:
            messages.insert(0, Message("system", choose(rng, rng.choice(INDEX_SYSTEMS))))
    elif style < 0.45:
        system = choose(rng, rng.choice(SYSTEMS)).replace("{t}", read.text).strip()
        messages = [Message("system", system), Message("user", asked)]
    else:
        form = choose(rng, rng.choice(KEPT_FORMATS if kept else FORMATS))
        messages = [Message("user", form.replace("{t}", read.text).replace("{q}", asked))]
    messages.append(Message("assistant", answer))
    for _ in range(rng.choice([0, 0, 1, 2, 3])):
        asked, answer = ask(rng, read, kept=kept, missing=missing)
        messages += [Message("user", asked), Message("assistant", answer)]
    return messages
