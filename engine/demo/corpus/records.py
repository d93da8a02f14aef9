"""Things with properties: passages to read and sentences to turn into JSON. In: records/*.txt.

Out: facts in words. A file opens with `# kind | name of its key | subject | other subject`. A block
is one property: `a` its possible keys, its type and its values; `s` sentences, `q` questions, `h`
wordings that training does not see, of either, `=` the answer. `{x}` is the subject, `{v}` the
value. Half of the blocks, chosen by checksum, share their `h` lines with the training, so that it
knows such wordings, but for other things. A property that is true or false has sentences in the
place of values.
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from corpus.phrases import Filler, capital, choose
from corpus.words import Words

RECORDS = Path(__file__).parent / "records"
Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Property:
    """One thing to know about a subject. Invariant: `kept` wordings are never learned."""

    keys: tuple[str, ...]
    type: str
    values: tuple[str, ...]
    sentences: tuple[str, ...] = ()
    kept_sentences: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    kept_questions: tuple[str, ...] = ()
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of subject. Invariant: at least one property can be asked for."""

    name: str
    key: str
    subjects: tuple[str, ...]
    properties: tuple[Property, ...]

    def some(self, *, kept: bool) -> tuple[Property, ...]:
        """The properties, or those with wordings that training never sees."""
        return tuple(of for of in self.properties if of.kept_sentences or not kept)


@dataclass(frozen=True, slots=True)
class Fact:
    """One property of one subject. Invariant: `sentence` says it and nothing else."""

    subject: str
    of: Property
    text: str
    sentence: str

    @property
    def value(self) -> Value:
        """The value as JSON knows it."""
        if self.of.type == "boolean":
            return self.text == "true"
        if self.of.type == "integer":
            return int(self.text)
        return float(self.text) if self.of.type == "number" else self.text

    @property
    def answer(self) -> str:
        """The answer to a question for it."""
        return put(self.of.answer, self.subject, self.text)


def put(template: str, subject: str, value: str) -> str:
    """Return a sentence about the subject, with the article that the value needs."""
    article = "an" if value[:1] in "aeiou" else "a"
    text = template.replace("{a v}", f"{article} {value}").replace("{v}", value)
    return capital(text.replace("{x}", subject))


def _property(lines: list[str]) -> Property:
    head, *rest = lines
    keys, kind, *values = (part.strip() for part in head[2:].split(" | "))
    texts: dict[str, list[str]] = {"s": [], "S": [], "q": [], "Q": [], "=": []}
    asked = False
    for line in rest:
        mark = line[0]
        asked = asked or mark == "q"
        mark = ("Q" if asked else "S") if mark == "h" else mark
        texts[mark].append(line[2:])
    if shares(head):
        texts["s"], texts["S"] = texts["s"] + texts["S"], []
        texts["q"], texts["Q"] = texts["q"] + texts["Q"], []
    return Property(
        tuple(keys.split("|")),
        kind,
        tuple(values),
        tuple(texts["s"]),
        tuple(texts["S"]),
        tuple(texts["q"]),
        tuple(texts["Q"]),
        "".join(texts["="]),
    )


def shares(head: str) -> bool:
    """Return whether training sees every wording of the block that opens with this line."""
    return zlib.crc32(head.encode()) % 2 == 0


@cache
def read_kinds() -> tuple[Kind, ...]:
    """Return every kind of record. Raises KeyError for a line with another mark."""
    kinds = []
    for path in sorted(RECORDS.glob("*.txt")):
        head, *blocks = re.split(r"\n(?=a )", path.read_text(encoding="utf-8").strip())
        name, key, *subjects = (part.strip() for part in head.lstrip("# ").split(" | "))
        made = [_property([line for line in block.splitlines() if line]) for block in blocks]
        kinds.append(Kind(name, key, tuple(subjects), tuple(made)))
    return tuple(kinds)


def subject_of(rng: random.Random, words: Words, kind: Kind) -> str:
    """Return a new subject of a kind."""
    return Filler(rng, words).fill(rng.choice(kind.subjects))


def fact(rng: random.Random, words: Words, subject: str, of: Property, *, kept: bool) -> Fact:
    """Return one fact; with `kept`, in words that training never sees, where there are any."""
    value = rng.choice(of.values)
    if of.type == "boolean":
        text, sentence = value.split(";")
        return Fact(subject, of, text, put(sentence, subject, text))
    text = Filler(rng, words).fill(value).strip()
    if of.type != "string":
        text = str(float(text)) if of.type == "number" and "." in text else str(int(text))
    template = rng.choice(of.kept_sentences if kept and of.kept_sentences else of.sentences)
    return Fact(subject, of, text, put(choose(rng, template), subject, text).strip())


def question(rng: random.Random, of: Property, subject: str, *, kept: bool) -> str:
    """Return a question for a property."""
    template = rng.choice(of.kept_questions if kept and of.kept_questions else of.questions)
    return put(choose(rng, template), subject, "")


def join(rng: random.Random, facts: list[Fact]) -> str:
    """Return the sentences of some facts about one subject, some of them joined by `and`."""
    written: list[str] = []
    for each in facts:
        start = f"{capital(each.subject)} "
        short = each.sentence.startswith(start) and ". " not in each.sentence
        last = written[-1] if written else ""
        fits = short and last.startswith(start) and rng.random() < 0.4
        if fits and " and " not in last.removeprefix(start):
            written[-1] = f"{last[:-1]} and {each.sentence.removeprefix(start)}"
        else:
            written.append(each.sentence)
    return " ".join(written)
