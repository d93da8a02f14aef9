"""Sentences to JSON. In: records and words. Out: one exchange that ends in JSON as of json.dumps.

The keys, their order and their types are those of the schema, or of the list of fields.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from corpus.document import Message
from corpus.phrases import choose
from corpus.records import Kind, Property, fact, kinds_with, read_kinds, subject_of
from corpus.telling import card, fits_card, tell
from corpus.words import Words

# {s} is the schema, {t} the text, {k} the keys.
WITH_SCHEMA = (
    "[Answer|Reply|Write] [only |]JSON [that matches|that fits|by] this schema:\n{s}",
    "[Extract|Find] the [data|information] as JSON. [Schema|The schema]:\n{s}",
    "JSON schema: {s}",
)
KEPT_WITH_SCHEMA = ("Give back one JSON object. It has to follow this schema:\n{s}",)
IN_ONE = (
    "{t}\n\n{system}",
    "{system}\n\n{t}",
    "{system}\n\nText: {t}",
    # What LlamaIndex appends to a question that asks for an object.
    "{t}\n\n\nHere's a JSON schema to follow:\n{s}\n\n"
    "Output a valid JSON object but do not repeat the schema.\n",
)
WITH_KEYS = (
    "[Extract|Find|Get] {k} [as JSON|in JSON]: {t}",
    "{t}\n\n[Write|Give me] {k} as JSON.",
    "[Write|Give me] this as JSON with [the keys |]{k}: {t}",
)
KEPT_WITH_KEYS = ("Make JSON with {k} from this text.\n{t}",)
# Only a grammar tells the keys, as with programs that do not put the schema into the prompt.
WITHOUT_KEYS = (
    "{t}",
    "[Extract|Extract the data|Find the data]: {t}",
    "[Write|Extract] the data as JSON: {t}",
    "{t}\n\n[Answer as JSON.|As JSON, please.]",
)
ASKED = ("{t}", "{t}", "[Extract|Extract the data|Text|Extract the information]: {t}")
DESCRIPTIONS = ("", "", "", "The {k}", "{k} of the {n}")


@dataclass(frozen=True, slots=True)
class Form:
    """What to look for in texts about one kind of thing. Invariant: at least one key."""

    kind: Kind
    told: tuple[Property, ...]
    keys: Mapping[str, Property | None]  # None: the subject itself
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """A text, its schema and what to find. Invariant: `found` matches `schema`."""

    text: str
    schema: Mapping[str, Any]
    found: Mapping[str, Any]


def _field(rng: random.Random, key: str, of: Property | None, name: str) -> dict[str, Any]:
    """Return the schema of one key, in one of the ways in which programs write it."""
    made: dict[str, Any] = {"type": of.type if of else "string"}
    if of and of.type == "array":
        made["items"] = {"type": "string"}
    if of and all("{" not in value for value in of.values) and of.type == "string":
        made |= {"enum": rng.sample(of.values, len(of.values))} if rng.random() < 0.7 else {}
    words = key.replace("_", " ")
    about = choose(rng, rng.choice(DESCRIPTIONS)).replace("{k}", words).replace("{n}", name)
    if about:
        made["description"] = about
    return made


def _schema(rng: random.Random, fields: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Return the schema of an object; titles and order differ from program to program."""
    style = rng.random()
    if style < 0.4:
        titled = {
            key: {"title": key.replace("_", " ").title(), **field} for key, field in fields.items()
        }
        made = {"properties": titled, "required": list(fields), "title": title, "type": "object"}
        return {"description": f"A {title.lower()}.", **made} if rng.random() < 0.3 else made
    made = {"type": "object", "properties": dict(fields), "required": list(fields)}
    if style < 0.6:
        made = {"title": title, **made}
    if style > 0.85:
        made["additionalProperties"] = False
    return made


def new_form(rng: random.Random, *, kept: bool = False) -> Form:
    """Return one to five keys of one kind of thing, and what the texts tell, which may be more."""
    kind = rng.choice(kinds_with(kept=kept))
    known = kind.some(kept=kept)
    told = rng.sample(known, min(rng.randint(1, 4), len(known)))
    wanted = rng.sample(told, max(1, len(told) - (rng.random() < 0.25)))
    subject = rng.choice([kind.key, kind.key, kind.key, "name"])
    keys: dict[str, Property | None] = {subject: None} if rng.random() < 0.85 else {}
    for of in wanted:
        keys.setdefault(rng.choice(of.keys), of)
    fields = {key: _field(rng, key, of, kind.name) for key, of in keys.items()}
    return Form(kind, tuple(told), keys, _schema(rng, fields, kind.name.title()))


def fill(rng: random.Random, words: Words, form: Form, *, kept: bool = False) -> Task:
    """Return a text and what the form finds in it."""
    subject = subject_of(rng, words, form.kind)
    facts = {of: fact(rng, words, subject, of, kept=kept) for of in form.told}
    told = list(facts.values())
    if not kept and fits_card(told) and rng.random() < 0.12:
        text = card(rng, told)
    else:
        text = tell(rng, told, person=form.kind.name == "person")
    if rng.random() < 0.25:
        other = subject_of(rng, words, rng.choice(read_kinds()))
        if other not in text:
            extra = rng.choice(
                [f"I like {other}.", f"This is not about {other}.", "That is all.", "Hello!"]
            )
            text = rng.choice([f"{text} {extra}", f"{extra} {text}"])
    name = subject.removeprefix("the ")
    found = {key: facts[of].value if of else name for key, of in form.keys.items()}
    return Task(text, form.schema, found)


def task(rng: random.Random, words: Words, *, kept: bool = False) -> Task:
    """Return something to extract."""
    return fill(rng, words, new_form(rng, kept=kept), kept=kept)


def _keys(rng: random.Random, found: Mapping[str, Any]) -> str:
    keys = [choose(rng, rng.choice(["{k}", "{k}"])).replace("{k}", key) for key in found]
    return ", ".join(keys[:-1]) + " and " + keys[-1] if len(keys) > 1 else keys[0]


def _json(found: Mapping[str, Any]) -> Message:
    return Message("assistant", json.dumps(found, ensure_ascii=False))


def extraction(rng: random.Random, words: Words, *, kept: bool = False) -> list[Message]:
    """Return exchanges whose answers are JSON; with a system message, up to three."""
    form = new_form(rng, kept=kept)
    made = fill(rng, words, form, kept=kept)
    schema = json.dumps(made.schema, ensure_ascii=False)
    if rng.random() < 0.08:
        text = choose(rng, rng.choice(WITHOUT_KEYS)).replace("{t}", made.text)
        return [Message("user", text), _json(made.found)]
    style = rng.random()
    if style < 0.35:
        asking = choose(rng, rng.choice(KEPT_WITH_KEYS if kept else WITH_KEYS))
        text = asking.replace("{k}", _keys(rng, made.found)).replace("{t}", made.text)
        return [Message("user", text), _json(made.found)]
    system = choose(rng, rng.choice(KEPT_WITH_SCHEMA if kept else WITH_SCHEMA))
    if style < 0.6:
        asking = rng.choice(IN_ONE).replace("{system}", system).replace("{t}", made.text)
        return [Message("user", asking.replace("{s}", schema)), _json(made.found)]
    messages = [Message("system", system.replace("{s}", schema))]
    asking = rng.choice(ASKED)
    for _ in range(rng.choice([1, 2, 3])):
        messages.append(Message("user", choose(rng, asking).replace("{t}", made.text)))
        messages.append(_json(made.found))
        made = fill(rng, words, form, kept=kept)
    return messages
