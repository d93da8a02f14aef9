"""What no grammar can express, and what would take forever.

In: schemas of either kind. Out: `UnsupportedSchema` with the place, soon.
"""

from __future__ import annotations

import pickle
import time
from functools import reduce
from typing import Any

import pytest

from libertai_llm.errors import LibertaiError, UnsupportedSchema
from libertai_llm.grammar import json_schema_grammar

TEXT = {"type": "string"}
REFUSED: dict[str, tuple[Any, str]] = {
    "not": ({"items": {"not": TEXT}}, "#/items/not"),
    "if": ({"if": True, "then": {"type": "null"}}, "#/then"),
    "contains": ({"type": "array", "contains": {}}, "#/contains"),
    "unique items": (
        {"properties": {"a": {"type": "array", "uniqueItems": True}}},
        "#/properties/a/uniqueItems",
    ),
    "dependencies": ({"dependentRequired": {"a": ["b"]}}, "#/dependentRequired"),
    "unevaluated": (
        {"allOf": [{"unevaluatedProperties": False}]},
        "#/allOf/0/unevaluatedProperties",
    ),
    "dynamic reference": ({"$dynamicRef": "#a"}, "#/$dynamicRef"),
    "remote reference": ({"$ref": "http://127.0.0.1/a"}, "#/$ref"),
    "anchor": ({"$ref": "#a", "$defs": {"x": {"$anchor": "a"}}}, "#/$ref"),
    "dangling reference": ({"properties": {"x": {"$ref": "#/$defs/y"}}}, "#/properties/x/$ref"),
    "reference to no schema": ({"$ref": "#/title", "title": "t"}, "#/title"),
    "overlapping oneOf": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "#/oneOf"),
    "oneOf of open objects": ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, "#/oneOf"),
    "multiple of a fraction": ({"multipleOf": 0.1}, "#/multipleOf"),
    "multiple of 0": ({"multipleOf": 0}, "#/multipleOf"),
    "free names to be counted": ({"type": "object", "minProperties": 2}, "#/minProperties"),
    "backreference": ({"pattern": r"(a)\1"}, "#/pattern"),
    "look-behind": ({"pattern": "(?<=a)b"}, "#/pattern"),
    "look-ahead inside": ({"pattern": "a(?=b)"}, "#/pattern"),
    "look-ahead beside an alternative": ({"pattern": "^(?=a)a|b"}, "#/pattern"),
    "word boundary": ({"pattern": r"\bword\b"}, "#/pattern"),
    "flags": ({"pattern": "(?i)a"}, "#/pattern"),
    "property of Unicode": ({"pattern": r"\p{L}"}, "#/pattern"),
    "broken pattern": ({"pattern": "a("}, "#/pattern"),
    "escape cut short": ({"pattern": r"^a\u12"}, "#/pattern"),
    "broken class": ({"pattern": "[b-a]"}, "#/pattern"),
    "nothing to repeat": ({"pattern": "*a"}, "#/pattern"),
    "counts the wrong way round": ({"pattern": "a{3,2}"}, "#/pattern"),
    "pattern of names": ({"patternProperties": {"(": {}}}, "#/patternProperties"),
    "format of patterns": ({"type": "string", "format": "regex"}, "#/format"),
    "half a surrogate pair": ({"const": "\ud800"}, "#/const"),
    "not a number": ({"const": float("nan")}, "#/const"),
    "no JSON": ({"const": b"a"}, "#/const"),
    "key that is no text": ({"properties": {1: {}}}, "#/properties"),
    "no schema": ({"items": 3}, "#/items"),
    "unknown type": ({"type": "text"}, "#/type"),
    "broken required": ({"type": "object", "required": True}, "#/required"),
    "broken properties": ({"properties": ["a"]}, "#/properties"),
    "broken length": ({"minLength": -1}, "#/minLength"),
    "broken bound": ({"minimum": "1"}, "#/minimum"),
    "broken enum": ({"enum": "ab"}, "#/enum"),
    "broken anyOf": ({"anyOf": {}}, "#/anyOf"),
    "itself": ({"$ref": "#"}, "#"),
    "itself by a way round": (
        {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, TEXT]}}, "$ref": "#/$defs/a"},
        "#/$defs/a",
    ),
    "false": (False, "#"),
    "no common type": ({"allOf": [TEXT, {"type": "null"}]}, "#"),
    "no value left": ({"enum": ["a"], "maxLength": 0}, "#"),
    "no number left": ({"type": "integer", "minimum": 5, "maximum": 4}, "#"),
    "no length left": ({"type": "string", "minLength": 5, "maxLength": 4}, "#"),
    "no text left": ({"type": "string", "allOf": [{"pattern": "^a$"}, {"pattern": "^b$"}]}, "#"),
    "no end": ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "#"),
    "required but not allowed": ({"properties": {"a": False}, "required": ["a"]}, "#"),
}


def nested(depth: int) -> Any:
    """A schema of objects in objects."""
    return reduce(lambda inner, _: {"properties": {"a": inner}}, range(depth), TEXT)


def chained(count: int, link: Any) -> Any:
    """Definitions of which each leads to the next; `link` makes one from the reference to it."""
    links = {f"d{index}": link({"$ref": f"#/$defs/d{index + 1}"}) for index in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": {**links, f"d{count}": TEXT}}


def text_of(pattern: str) -> Any:
    """A schema of texts with this pattern."""
    return {"type": "string", "pattern": pattern}


# Schemas made to hurt, and whether there is a grammar for them after all.
HOSTILE: dict[str, tuple[Any, bool]] = {
    "10,000 deep": (nested(10_000), False),
    "doubling allOf": (chained(40, lambda ref: {"allOf": [ref, ref]}), True),
    "doubling anyOf": (chained(40, lambda ref: {"anyOf": [ref, ref]}), False),
    "doubling properties": (chained(60, lambda ref: {"properties": {"a": ref, "b": ref}}), True),
    "10,000 references": (chained(10_000, lambda ref: ref), True),
    "30 choices at once": (
        {"allOf": [{"anyOf": [{"minLength": n}, {"maxLength": n}]} for n in range(30)]},
        False,
    ),
    "100,000 values": ({"enum": list(range(100_000))}, False),
    "5,000 values": ({"enum": list(range(5_000))}, True),
    "3,000 properties": ({"properties": {f"p{n}": TEXT for n in range(3_000)}}, False),
    "300 dates": ({"properties": {f"p{n}": {"format": "date"} for n in range(300)}}, True),
    "a name of 200 kB": ({"properties": {"x" * 200_000: TEXT}}, False),
    "a billion characters": ({"type": "string", "maxLength": 10**9}, False),
    "5,000 characters": ({"type": "string", "minLength": 5_000, "maxLength": 5_000}, True),
    "a tuple of 20,000": ({"type": "array", "prefixItems": [TEXT] * 20_000}, False),
    "a number of 4,000 digits": ({"type": "integer", "minimum": 10**4_000}, False),
    "a pattern with many states": (text_of("(a|b)*a(a|b){20}"), False),
    "a pattern of nested counts": (text_of("^((a{1,100}){1,100}){1,100}$"), False),
    "a pattern of optional parts": (text_of("(a?){1000}a{1000}"), False),
    "a pattern that backtracks": (text_of("^(x+x+)+y$"), True),
    "a pattern of 5,000 groups": (text_of("(" * 5_000), False),
    "a pattern of deep groups": (text_of("(" * 1_500 + ")" * 1_500), False),
    "a pattern of deep quantifiers": (text_of("(?:" * 39 + "a" + ")*" * 39), True),
    "patterns of names": (
        {"patternProperties": {f"(a|b)*{c}(a|b){{9}}": {} for c in "abcde"}},
        False,
    ),
    "100 exclusive objects": (
        {"oneOf": [{"properties": {"k": {"const": n}}, "required": ["k"]} for n in range(100)]},
        True,
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_its_place(what: str) -> None:
    """Never a grammar that is looser than the schema."""
    schema, path = REFUSED[what]
    with pytest.raises(UnsupportedSchema) as caught:
        json_schema_grammar(schema)
    assert caught.value.path == path and str(caught.value).endswith(f"(at {path})")


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_schemas_end_soon(what: str) -> None:
    """With a grammar or an error, within 5 seconds of work."""
    schema, has_grammar = HOSTILE[what]
    start = time.process_time()
    try:
        assert len(json_schema_grammar(schema)) <= 101_000
        assert has_grammar
    except UnsupportedSchema as error:
        assert not has_grammar, error
        assert len(str(error)) < 500
    assert time.process_time() - start < 5


def test_a_keyword_may_be_passed_over() -> None:
    """If the caller names it: the grammar then is that of the schema without it."""
    schema = {"type": "array", "items": TEXT, "uniqueItems": True}
    with pytest.raises(UnsupportedSchema):
        json_schema_grammar(schema, ignore=["not"])
    loose = json_schema_grammar(schema, ignore=["uniqueItems"])
    assert loose == json_schema_grammar({"type": "array", "items": TEXT})


def test_the_error_survives_pickling() -> None:
    """As every error of the package does."""
    error = pickle.loads(pickle.dumps(UnsupportedSchema("no", path="#/a")))
    assert isinstance(error, LibertaiError)
    assert (str(error), error.path, error.field) == ("no (at #/a)", "#/a", "json_schema")
