"""Tool use in the Hermes form. In: tools/tools.txt, records, words. Out: conversations with calls.

A block of tools.txt is a family of tools: `#` possible names, `d` descriptions, `p` parameters as
`type names = value : descriptions`, `q` questions, `h` questions that training never sees (half of
the blocks, chosen by checksum, share them), `r` results and, after `=>`, the sentence that tells
them. `{tool}` is the name of the tool.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from corpus.document import Message
from corpus.extraction import task
from corpus.phrases import Filler, capital, choose
from corpus.records import Kind, Property, read_kinds, shares
from corpus.words import Words

TOOLS = Path(__file__).parent / "tools" / "tools.txt"
NO_TOOL = "I have no tool for that."
INTRODUCTION = (
    "# Tools\n\nYou may call functions to help with the question of the user. Their signatures are "
    "within <tools></tools>:\n<tools>"
)
INSTRUCTION = (
    "\n</tools>\n\nFor each call, write a JSON object with the name and the arguments within "
    '<tool_call></tool_call>:\n<tool_call>\n{"name": <name>, "arguments": <arguments>}\n'
    "</tool_call>"
)
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a [friendly|useful|helpful] assistant[ with tools| that uses tools|].",
    "Use [the|a] [tool|tools] when [it helps|needed].",
)
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
# Properties that other tools tell, too.
AMBIGUOUS = ("temperature", "population")
OPTIONAL = (
    ("unit", {"type": "string", "enum": ["celsius", "fahrenheit"]}),
    ("limit", {"type": "integer", "default": 5}),
    ("language", {"type": "string", "default": "en"}),
    ("verbose", {"type": "boolean", "default": False}),
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument. Invariant: `value` is a template whose slots the question names, too."""

    type: str
    names: tuple[str, ...]
    value: str
    descriptions: str


@dataclass(frozen=True, slots=True)
class Family:
    """Tools that do the same under other names. Invariant: `kept` questions are never learned."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    questions: tuple[str, ...]
    kept: tuple[str, ...]
    results: tuple[tuple[str, str], ...]


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


def _parameter(line: str) -> Parameter:
    head, value_and_rest = line.split(" = ", 1)
    value, descriptions = value_and_rest.split(" : ", 1)
    kind, names = head.split(" ", 1)
    return Parameter(kind, tuple(names.split("|")), value, descriptions)


@cache
def read_families() -> tuple[Family, ...]:
    """Return all families of tools. Raises KeyError for a line with another mark."""
    families = []
    for block in TOOLS.read_text(encoding="utf-8").strip().split("\n\n"):
        head, *lines = block.splitlines()
        texts: dict[str, list[str]] = {"d": [], "p": [], "q": [], "h": [], "r": []}
        for line in lines:
            texts[line[0]].append(line[2:])
        results = tuple((r.split(" => ")[0], r.split(" => ")[1]) for r in texts["r"])
        if shares(head):
            texts["q"], texts["h"] = texts["q"] + texts["h"], []
        families.append(
            Family(
                tuple(head.lstrip("# ").split("|")),
                tuple(texts["d"]),
                tuple(_parameter(line) for line in texts["p"]),
                tuple(texts["q"]),
                tuple(texts["h"]),
                results,
            )
        )
    return tuple(families)


@cache
def record_families() -> tuple[tuple[Family, ...], ...]:
    """Return a tool for every property of every record, in one form for each kind of subject."""
    made = []
    for kind in read_kinds():
        for of in kind.properties:
            if of.questions and of.keys[0] not in AMBIGUOUS:
                made.append(tuple(_getters(kind, of)))
    return tuple(each for each in made if each)


def _getters(kind: Kind, of: Property) -> Iterator[Family]:
    """Yield the tools that look a property up, by its subject."""
    for subject in kind.subjects:
        value = next((v for v in of.values if v[1:5].lower() not in subject.lower()), None)
        if value is None:
            continue
        names = tuple(f"{start}_{key}" for key in of.keys for start in ("get", "find", "lookup"))
        key = of.keys[0].replace("_", " ")
        article = "an" if kind.name[0] in "aeiou" else "a"
        described = (f"[Get|Return|Look up|Find] the {key} of [{article}|the] {kind.name}.",)
        parameter = Parameter(
            "string",
            (kind.key, kind.name, "name", "of"),
            subject.removeprefix("the "),
            f"[|The {kind.name}|Name of the {kind.name}]",
        )
        told = of.answer.replace("{a v}", "{a " + value[1:]).replace("{v}", value)
        asked, kept = (
            tuple(text.replace("{x}", subject) for text in texts)
            for texts in (of.questions, of.kept_questions)
        )
        shown = (value, f'{{"{of.keys[0]}": "{value}"}}')
        results = tuple((each, told.replace("{x}", subject)) for each in shown)
        yield Family(names, described, (parameter,), asked, kept, results)


def _typed(kind: str, text: str) -> str | int | float:
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


def offer(rng: random.Random, words: Words, family: Family) -> Offer:
    """Return a family under one of its names; now and then under a name that says nothing."""
    name = rng.choice(family.names)
    if family.names[0] in NAMELESS and rng.random() < 0.4:
        word = words.pick(rng, "word")["word"]
        name = rng.choice([word, f"{word}_tool", f"get_{word}"])
    description = choose(rng, rng.choice(family.descriptions))
    names = tuple(rng.choice(each.names) for each in family.parameters)
    properties: dict[str, Any] = {}
    for key, each in zip(names, family.parameters, strict=True):
        properties[key] = {"type": each.type}
        if about := choose(rng, each.descriptions):
            properties[key] = (
                {"description": about, "type": each.type}
                if rng.random() < 0.3
                else {"type": each.type, "description": about}
            )
    if names and rng.random() < 0.1:
        key, extra = rng.choice(OPTIONAL)
        properties.setdefault(key, extra)
    if rng.random() < 0.15:
        listed = ", ".join(
            f"{key}: {dict(string='str', integer='int', number='float')[each.type]}"
            for key, each in zip(names, family.parameters, strict=True)
        )
        description = f"{name}({listed}) -> str\n{description}"
    return Offer(family, name, names, _schema(rng, name, description, properties, list(names)))


def offers(rng: random.Random, words: Words, count: int) -> list[Offer]:
    """Return some tools of different families, all with different names."""
    if rng.random() < 0.35:
        chosen = [rng.choice(forms) for forms in rng.sample(record_families(), count)]
    else:
        chosen = rng.sample(read_families(), count)
    made = [offer(rng, words, family) for family in chosen]
    return made if len({each.name for each in made}) == count else offers(rng, words, count)


def use(rng: random.Random, words: Words, of: Offer, *, kept: bool = False) -> Use:
    """Return one use of a tool."""
    filler = Filler(rng, words)
    if words.split == "train" and rng.random() < 0.5:
        # Towns that exist, too: what is asked in practice.
        filler.bound["city"] = {"city": words.pick(rng, "country")["capital"]}
    family = of.family
    template = rng.choice(family.kept if kept and family.kept else family.questions).replace(
        "{tool}", of.name
    )
    question = capital(filler.fill(template))
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


def system_text(rng: random.Random, schemas: Sequence[Mapping[str, Any]], start: str) -> str:
    """Return the system message that offers the tools, as the chat template writes it."""
    listed = "".join("\n" + json.dumps(each, ensure_ascii=False) for each in schemas)
    return (f"{start}\n\n" if start else "") + INTRODUCTION + listed + INSTRUCTION


def call_text(name: str, arguments: Mapping[str, Any]) -> str:
    """Return one call as the assistant writes it."""
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


def turns(each: Use, *, told: bool) -> list[Message]:
    """Return a question and its call; with `told`, the result and the answer, too."""
    made = [Message("user", each.question)]
    made.append(Message("assistant", call_text(each.name, each.arguments)))
    if told:
        result = f"<tool_response>\n{each.result}\n</tool_response>"
        made += [Message("user", result), Message("assistant", each.answer)]
    return made


def _start(rng: random.Random) -> str:
    return choose(rng, rng.choice(SYSTEMS)) if rng.random() < 0.4 else ""


def calling(
    rng: random.Random,
    words: Words,
    count: int,
    small_talk: Sequence[Message] = (),
    *,
    kept: bool = False,
) -> list[Message]:
    """Return a conversation with `count` tools: calls, results, and questions without a tool."""
    offered = offers(rng, words, count)
    messages = [Message("system", system_text(rng, [o.schema for o in offered], _start(rng)))]
    for _ in range(rng.choice([1, 1, 2, 2, 3, 4])):
        style = rng.random()
        if style < 0.1:
            families = [f for f in read_families() if all(f is not o.family for o in offered)]
            other = offer(rng, words, rng.choice(families))
            asked = use(rng, words, other).question
            messages += [Message("user", asked), Message("assistant", NO_TOOL)]
        elif style < 0.2 and small_talk:
            messages += small_talk
            small_talk = ()
        elif style < 0.26:
            messages += _two_calls(rng, words, rng.choice(offered))
        else:
            made = use(rng, words, rng.choice(offered), kept=kept)
            messages += turns(made, told=rng.random() < 0.8)
    return messages


def _two_calls(rng: random.Random, words: Words, of: Offer) -> list[Message]:
    """Return a question that needs the same tool twice."""
    first, second = use(rng, words, of), use(rng, words, of)
    asked = f"{first.question.rstrip('.?')} and {second.question[:1].lower()}{second.question[1:]}"
    calls = [call_text(each.name, each.arguments) for each in (first, second)]
    results = [
        Message("user", f"<tool_response>\n{each.result}\n</tool_response>")
        for each in (first, second)
    ]
    told = Message("assistant", f"{first.answer} {second.answer}")
    return [Message("user", asked), Message("assistant", "\n".join(calls)), *results, told]


def filling(rng: random.Random, words: Words, *, kept: bool = False) -> list[Message]:
    """Return an extraction whose schema is a tool that must be called."""
    made = task(rng, words, kept=kept)
    name = rng.choice([made.schema.get("title", "Record"), "extract", "answer", "save_record"])
    parameters = {key: value for key, value in made.schema.items() if key != "title"}
    about = rng.choice(["", "The data of the text.", f"A {str(name).lower()}."])
    function = {"name": name, "description": about, "parameters": parameters}
    system = system_text(rng, [{"type": "function", "function": function}], _start(rng))
    asked = choose(rng, rng.choice(["{t}", "[Extract|Save] this: {t}"])).replace("{t}", made.text)
    answer = call_text(str(name), made.found)
    return [Message("system", system), Message("user", asked), Message("assistant", answer)]
