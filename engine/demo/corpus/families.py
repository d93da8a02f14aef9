"""Families of tools. In: tools/tools.txt, records. Out: tools that do the same under other names.

A block of tools.txt is a family of tools: `#` possible names, `d` descriptions, `p` parameters as
`type names = value : descriptions`, `q` questions, `h` questions that training never sees (half of
the blocks, chosen by checksum, share them), `r` results and, after `=>`, the sentence that tells
them. `{tool}` is the name of the tool. The type `enum` takes the words of the value's table,
`array` parts its value at commas and `and`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from corpus.records import Kind, Property, read_kinds, shares

TOOLS = Path(__file__).parent / "tools" / "tools.txt"
# How a tool for a property is called; {n} is the kind of subject.
NAMES = (
    "get_{k}",
    "find_{k}",
    "lookup_{k}",
    "get_{k}",
    "{n}_{k}",
    "get_{n}_{k}",
    "{k}_of_{n}",
    "{k}_tool",
    "show_{k}",
)
# Properties that other tools tell, too.
AMBIGUOUS = ("temperature", "population")
# Families that do much the same, by one of their names.
CLOSE = (
    {"find_person", "get_phone", "get_address", "get_street", "get_email", "get_mail"},
    {"get_weather", "get_forecast", "get_temperature"},
    {"set_light", "turn_on"},
    {"run_query", "get_status"},
    {"check_stock", "get_stock"},
    {"get_price", "get_cost", "get_ticket_price", "get_total", "get_rent"},
    {"get_time", "get_departure", "get_starts_at"},
    {"search", "define", "news"},
    {"order", "order_pizza"},
    {"find_route", "get_from", "get_to"},
)
# Types that a tool can tell in one line.
PLAIN = ("string", "integer", "number")


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
            if of.questions and of.keys[0] not in AMBIGUOUS and of.type in PLAIN:
                made.append(tuple(_getters(kind, of)))
    return tuple(each for each in made if each)


def _getters(kind: Kind, of: Property) -> Iterator[Family]:
    """Yield the tools that look a property up, by its subject."""
    for subject in kind.subjects:
        value = next((v for v in of.values if v[1:5].lower() not in subject.lower()), None)
        if value is None:
            continue
        names = tuple(form.format(k=key, n=kind.name) for key in of.keys for form in NAMES)
        article = "an" if kind.name[0] in "aeiou" else "a"
        described = (f"[Get|Return|Look up|Find] the {of.noun} of [{article}|the] {kind.name}.",)
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


def alike(one: Family, other: Family) -> bool:
    """Return whether two families may do the same."""
    first, second = set(one.names), set(other.names)
    return bool(first & second) or any(first & each and second & each for each in CLOSE)
