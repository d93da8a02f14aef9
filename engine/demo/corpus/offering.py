"""Tools as programs offer them, and how they are used. In: families, words. Out: schemas, uses."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from corpus.families import Family, Parameter, alike, read_families, record_families
from corpus.phrases import Filler, capital, choose
from corpus.words import Words

ERRORS = (
    "unknown {word}",
    "no {word} found",
    "the server does not answer",
    "time is up",
    "{word} is missing",
    "code {number}",
    "not allowed",
)
# Families whose tools may have any name.
NAMELESS = ("reverse", "magic_function", "magic_function_no_args")
# What may stand around a question.
AROUND = (
    "Hi! {q}",
    "Hello. {q}",
    "{q} Thank you!",
    "One more thing: {q}",
    "Next: {q}",
    "And now: {q}",
    "{q} Please help.",
)
PYTHON = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "enum": "str",
    "array": "list[str]",
}
OPTIONAL = (
    ("unit", {"type": "string", "enum": ["celsius", "fahrenheit"]}),
    ("limit", {"type": "integer", "default": 5}),
    ("language", {"type": "string", "default": "en"}),
    ("verbose", {"type": "boolean", "default": False}),
)


@dataclass(frozen=True, slots=True)
class Offer:
    """One tool as it is offered. Invariant: `names` are the names of the family's parameters."""

    family: Family
    name: str
    names: tuple[str, ...]
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Use:
    """A question, the call that it needs, the result and the answer."""

    question: str
    name: str
    arguments: Mapping[str, Any]
    result: str
    answer: str


def _typed(kind: str, text: str) -> str | int | float | bool | list[str]:
    if kind == "array":
        return re.split(", | and ", text)
    if kind == "boolean":
        return text == "true"
    if kind == "integer":
        return int(text)
    return float(text) if kind == "number" else text


def _schema(
    rng: random.Random, name: str, description: str, properties: dict[str, Any], needed: list[str]
) -> dict[str, Any]:
    """Return the tool as programs write it: order and titles differ."""
    style = rng.random()
    if style < 0.45:
        parameters = {"properties": properties, "required": needed, "type": "object"}
        if not needed:
            parameters.pop("required")
    elif style < 0.65:
        titled = {
            key: {"title": key.replace("_", " ").title(), **value}
            for key, value in properties.items()
        }
        parameters = {"properties": titled, "required": needed, "type": "object"}
    else:
        parameters = {"type": "object", "properties": properties, "required": needed}
        if style > 0.93:
            parameters["additionalProperties"] = False
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def _type(words: Words, of: Parameter) -> dict[str, Any]:
    """Return the schema of a parameter without its description."""
    if of.type == "enum":
        table = words.tables[of.value.strip("{}")]
        return {"type": "string", "enum": [next(iter(row.values())) for row in table]}
    if of.type == "array":
        return {"type": "array", "items": {"type": "string"}}
    return {"type": of.type}


def _described(rng: random.Random, family: Family) -> Family:
    """Return a family with one more argument: what the question says after a dash."""
    about = rng.choice(["{a adjective9} {thing9}", "{a adjective9} {thing9} company", "{phrase9}"])
    asked = tuple(f"{each.rstrip('.?')} - {about}" for each in family.questions)
    names = ("description", "note", "comment", "details", "about")
    more = Parameter("string", names, about, "[|A description|What else is said]")
    parameters = (*family.parameters, more)
    return replace(family, parameters=parameters, questions=asked, kept=())


def offer(rng: random.Random, words: Words, family: Family) -> Offer:
    """Return a family under one of its names; now and then under a name that says nothing."""
    name = rng.choice(family.names)
    if words.split == "train" and len(family.parameters) == 1 and rng.random() < 0.15:
        family = _described(rng, family)
    if rng.random() < (0.4 if family.names[0] in NAMELESS else 0.02):
        word = words.pick(rng, "word")["word"]
        name = rng.choice([word, f"{word}_tool", f"get_{word}"])
    description = choose(rng, rng.choice(family.descriptions))
    names = tuple(rng.choice(each.names) for each in family.parameters)
    properties: dict[str, Any] = {}
    for key, each in zip(names, family.parameters, strict=True):
        properties[key] = typed = _type(words, each)
        if about := choose(rng, each.descriptions):
            told = {"description": about}
            properties[key] = told | typed if rng.random() < 0.3 else typed | told
    if names and rng.random() < 0.1:
        key, extra = rng.choice(OPTIONAL)
        properties.setdefault(key, extra)
    if rng.random() < 0.15:
        listed = ", ".join(
            f"{key}: {PYTHON[each.type]}"
            for key, each in zip(names, family.parameters, strict=True)
        )
        description = f"{name}({listed}) -> str\n{description}"
    return Offer(family, name, names, _schema(rng, name, description, properties, list(names)))


def _pool(rng: random.Random) -> list[Family]:
    """Return families to choose from: of one kind of subject, of all kinds, of all sorts, or mixed.

    Tools about one kind of subject are the hardest to tell apart.
    """
    style = rng.random()
    if style < 0.65:
        return list(read_families())
    properties = [rng.choice(forms) for forms in record_families()]
    if style < 0.75:
        of = rng.choice(properties).parameters[0].names[0]
        return [each for each in properties if each.parameters[0].names[0] == of]
    return properties if style < 0.85 else [*properties, *read_families()]


def offers(rng: random.Random, words: Words, count: int) -> list[Offer]:
    """Return some tools that do different things, all with different names."""
    pool = _pool(rng)
    chosen: list[Family] = []
    for each in rng.sample(pool, len(pool)):
        if len(chosen) < count and not any(alike(each, other) for other in chosen):
            chosen.append(each)
    made = [offer(rng, words, family) for family in chosen]
    fine = len({each.name for each in made}) == count
    return made if fine else offers(rng, words, count)


def unfitting(rng: random.Random, words: Words, offered: Sequence[Offer]) -> str:
    """Return a question for another tool, in half of the cases one about the same sort of value."""
    pool = _pool(rng)
    other = [f for f in pool if not any(alike(f, each.family) for each in offered)]
    if not other:
        return unfitting(rng, words, offered)
    values = {each.value for of in offered for each in of.family.parameters}
    near = [f for f in other if any(each.value in values for each in f.parameters)]
    family = rng.choice(near if near and rng.random() < 0.5 else other)
    return use(rng, words, offer(rng, words, family)).question


def use(rng: random.Random, words: Words, of: Offer, *, kept: bool = False) -> Use:
    """Return one use of a tool."""
    filler = Filler(rng, words)
    if words.split == "train" and rng.random() < 0.5:
        # Towns that exist, too: what is asked in practice.
        filler.bound["city"] = {"city": words.pick(rng, "country")["capital"]}
    family = of.family
    template = rng.choice(family.kept if kept and family.kept else family.questions)
    question = filler.fill(template.replace("{tool}", of.name))
    question = question if template.startswith("{tool}") else capital(question)
    if not kept and rng.random() < 0.1:
        question = rng.choice(AROUND).replace("{q}", question)
    values = [filler.fill(each.value) for each in family.parameters]
    arguments = {
        key: _typed(each.type, value)
        for key, each, value in zip(of.names, family.parameters, values, strict=True)
    }
    if rng.random() < 0.1:
        error = filler.fill(rng.choice(ERRORS))
        shown = rng.choice(["Error: {e}", "Error: {e}", '{"error": "{e}"}']).replace("{e}", error)
        return Use(question, of.name, arguments, shown, f"The tool reports an error: {error}.")
    result, answer = (
        filler.fill(choose(rng, each).replace("{tool}", of.name))
        for each in rng.choice(family.results)
    )
    answer = capital(answer)
    # Many tools answer in whole sentences.
    told = answer if rng.random() < 0.15 else result
    return Use(question, of.name, arguments, told, answer)
