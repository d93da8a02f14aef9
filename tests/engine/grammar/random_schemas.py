"""JSON schemas of every supported keyword, drawn at random.

In: a random generator. Out: a schema that somebody could have written; every one can be satisfied.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]
NAMES = ("name", "a", "b c", "größe", 'with "quotes"', "x/y~z", "日本", "long_name_of_a_field", "_")
WORDS = ("red", "green", "reddish", "", "é", "🙂", 'a "b"', "line\nbreak", "\\", "0")
PATTERNS = ("^[a-z]{2,4}$", "^\\d{3}-\\d{2}$", "[xy]", "^(ab|c)+$", "^[^a-z]{1,3}$", "a|b")
FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "email", "hostname", "duration")


def random_schema(rng: random.Random, depth: int = 3) -> Schema:
    """A schema of at most `depth` levels."""
    simple = [_string, _number, _integer, _choice, _constant, _plain]
    nested = [_object, _object, _array, _tuple, _map, _any_of, _one_of, _all_of, _reference, _list]
    make: Callable[[random.Random, int], Schema] = rng.choice(simple + (nested if depth else []))
    schema = make(rng, depth - 1)
    if rng.random() < 0.2:
        schema |= {"title": "T", "description": "of something"}
    return schema


def _string(rng: random.Random, depth: int) -> Schema:
    kind = rng.randrange(4)
    if kind == 0:
        return {"type": "string", "pattern": rng.choice(PATTERNS)}
    if kind == 1:
        return {"type": "string", "format": rng.choice(FORMATS)}
    low = rng.randrange(4)
    return {"type": "string", "minLength": low, "maxLength": low + rng.randrange(6)}


def _integer(rng: random.Random, depth: int) -> Schema:
    low = rng.randrange(-1000, 1000)
    schema: Schema = {"type": "integer"}
    if rng.random() < 0.7:
        schema[rng.choice(["minimum", "exclusiveMinimum"])] = low
    if rng.random() < 0.7:
        schema["maximum"] = low + rng.randrange(2, 500)
    if rng.random() < 0.2:
        schema = {"type": "integer", "multipleOf": rng.choice([2, 5, 10])}
    return schema


def _number(rng: random.Random, depth: int) -> Schema:
    low = rng.choice([-1.5, 0, 2.25, -100])
    schema: Schema = {"type": "number"}
    if rng.random() < 0.6:
        schema["minimum"] = low
    if rng.random() < 0.6:
        schema[rng.choice(["maximum", "exclusiveMaximum"])] = low + rng.choice([0.5, 3, 1000])
    return schema


def _choice(rng: random.Random, depth: int) -> Schema:
    values = [*rng.sample(WORDS, 3), rng.randrange(-9, 99), None, True, 0.5, [1], {"k": "v"}]
    return {"enum": rng.sample(values, rng.randrange(1, 5))}


def _constant(rng: random.Random, depth: int) -> Schema:
    return {"const": rng.choice([*WORDS, 7, False, None, [], {"a": [1, {"b": None}]}])}


def _plain(rng: random.Random, depth: int) -> Schema:
    return {"type": rng.choice(["boolean", "null", "string", ["integer", "null"], ["boolean"]])}


def _object(rng: random.Random, depth: int) -> Schema:
    names = rng.sample(NAMES, rng.randrange(1, 5))
    schema: Schema = {
        "type": "object",
        "properties": {name: random_schema(rng, depth) for name in names},
        "required": rng.sample(names, rng.randrange(len(names) + 1)),
    }
    if rng.random() < 0.2:
        schema["additionalProperties"] = rng.choice([False, {"type": "null"}])
    return schema


def _map(rng: random.Random, depth: int) -> Schema:
    schema: Schema = {"type": "object", "additionalProperties": random_schema(rng, depth)}
    if rng.random() < 0.5:
        schema |= {"minProperties": 1, "maxProperties": 2}
    if rng.random() < 0.3:
        schema = {"type": "object", "patternProperties": {"^k": random_schema(rng, depth)}}
    return schema


def _array(rng: random.Random, depth: int) -> Schema:
    low = rng.randrange(3)
    high = low + rng.randrange(3)
    items = random_schema(rng, depth)
    return {"type": "array", "items": items, "minItems": low, "maxItems": high}


def _tuple(rng: random.Random, depth: int) -> Schema:
    first = [random_schema(rng, depth) for _ in range(rng.randrange(1, 3))]
    return {"type": "array", "prefixItems": first, "items": False, "minItems": len(first)}


def _any_of(rng: random.Random, depth: int) -> Schema:
    return {"anyOf": [random_schema(rng, depth) for _ in range(rng.randrange(1, 4))]}


def _one_of(rng: random.Random, depth: int) -> Schema:
    """Objects that a tag tells apart, or values of different types."""
    if rng.random() < 0.4:
        return {"oneOf": [{"type": "null"}, _integer(rng, depth), _string(rng, depth)]}
    branches = []
    for tag in rng.sample(["cat", "dog", "bird"], 2):
        branch = _object(rng, depth)
        branch["properties"] = {"tag": {"const": tag}} | branch["properties"]
        branches.append({**branch, "required": ["tag", *branch["required"]]})
    return {"oneOf": branches}


def _all_of(rng: random.Random, depth: int) -> Schema:
    first, second = ({"properties": {name: random_schema(rng, depth)}} for name in ("p", "q"))
    return {"type": "object", "allOf": [{**first, "required": ["p"]}, second]}


def _reference(rng: random.Random, depth: int) -> Schema:
    """A definition that is used twice."""
    used = {"$ref": "#/$defs/part"}
    inner = {"type": "object", "properties": {"one": used, "two": used}, "required": ["one"]}
    return {"x-parts": random_schema(rng, depth), **inner}


def _list(rng: random.Random, depth: int) -> Schema:
    """A linked list."""
    return {
        "type": "object",
        "properties": {"value": random_schema(rng, 0), "next": {"$ref": "#/$defs/list"}},
        "required": ["value"],
    }


def closed_schema(seed: int, depth: int = 3) -> Schema:
    """A whole schema: what its references lead to is in it."""
    rng = random.Random(seed)
    schema = random_schema(rng, depth)
    linked = {
        "type": ["object", "null"],
        "properties": {"value": {"type": "boolean"}, "next": {"$ref": "#/$defs/list"}},
        "required": ["value"],
    }
    schema["$defs"] = {"part": random_schema(rng, 0), "list": linked}
    return schema
