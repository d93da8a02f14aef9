"""JSON schemas: what is refused and where, and that nothing looser than the schema comes out."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from libertai_engine.errors import InvalidRequest
from libertai_engine.grammar.compiler import MAX_BYTES, GrammarCompiler
from tests.engine.grammar.tokenizers_of_every_kind import make_compiler, make_vocabulary

NODE = {"type": "object", "required": ["next"], "properties": {"next": {"$ref": "#"}}}
TAGGED = [
    {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]}
    for kind in ("a", "b")
]


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    vocabulary = make_vocabulary("byte_level")
    return GrammarCompiler(lambda: vocabulary)


def accepts(compiler: GrammarCompiler, schema: Any, value: Any) -> bool:
    """Whether a value, written without white space, is a whole answer."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    matcher = compiler.json_schema(schema).matcher()
    vocabulary = make_vocabulary("byte_level")
    for token_id in vocabulary.tokenize(text):
        if not matcher.allows(token_id):
            return False
        matcher.accept(token_id)
    return matcher.is_complete


REFUSED: list[tuple[Any, str, str]] = [
    ({"type": "string", "not": {"const": "a"}}, "#/not", "`not` is not supported"),
    ({"if": {"type": "string"}, "then": {"minLength": 1}}, "#/if", "`if`"),
    ({"items": {"uniqueItems": True}}, "#/items/uniqueItems", "`uniqueItems`"),
    ({"dependentRequired": {"a": ["b"]}}, "#/dependentRequired", "not supported"),
    ({"properties": {"a": {"pattern": "(?=a)b", "type": "string"}}}, "#/properties/a", "around"),
    ({"type": "string", "pattern": "["}, "#", "regex parse error: unclosed character class"),
    ({"properties": {"a/b": {"format": "regex"}}}, "#/properties/a~1b/format", "format 'regex'"),
    ({"$ref": "http://example.com/x"}, "#/$ref", "inside the schema"),
    ({"$ref": "file:///etc/passwd"}, "#/$ref", "inside the schema"),
    ({"$ref": "#/$defs/x"}, "#/$defs/x", "leads nowhere"),
    ({"$ref": "#"}, "#", "nothing that ends"),
    (NODE, "#", "nothing that ends"),
    (False, "#", "nothing that ends"),
    ({"type": "foo"}, "#/type", "must be made of"),
    ({"anyOf": []}, "#/anyOf", "not empty"),
    ({"items": {"oneOf": [{"type": "string"}, {"type": "string"}]}}, "#/items", "oneOf"),
    ({"oneOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}, "#", "oneOf"),
    ({"type": "integer", "minimum": 5, "maximum": 3}, "#", "greater than"),
    ({"exclusiveMinimum": True}, "#/exclusiveMinimum", "must be a number"),
    ({"minimum": 10**400}, "#/minimum", "64-bit"),
    ({"minLength": -1}, "#/minLength", "not negative"),
    ({"minProperties": 2}, "#/minProperties", "more than 1"),
    ({"required": "a"}, "#/required", "array of strings"),
    ({"properties": {"a": 1}}, "#/properties/a", "must be an object"),
    ({"properties": []}, "#/properties", "must be an object"),
    (5, "#", "must be an object"),
    ("{}", "#", "must be an object"),
    ([], "#", "must be an object"),
    ({"const": float("nan")}, "", "no JSON schema"),
    ({"const": "\ud800"}, "", ""),
]


@pytest.mark.parametrize(("schema", "path", "reason"), REFUSED, ids=str)
def test_what_cannot_be_kept_is_refused(
    compiler: GrammarCompiler, schema: Any, path: str, reason: str
) -> None:
    """By the place in the schema and under the name of the field."""
    with pytest.raises(InvalidRequest) as caught:
        compiler.json_schema(schema, field="response_format")
    message = str(caught.value)
    assert caught.value.field == "response_format" and "`response_format`" in message
    assert f": {path}: " in message or not path
    assert reason in message and len(message) < 600


HOSTILE: dict[str, Any] = {
    "many choices": {"enum": [str(each) for each in range(20_000)]},
    "a huge array": {"type": "array", "minItems": 10**9},
    "a huge text": {"type": "string", "maxLength": 10**9},
    "a catastrophic pattern": {"type": "string", "pattern": "^(a+)+$"},
    "nested repetitions": {"type": "string", "pattern": "((a{1,1000}){1,1000}){1,1000}"},
    "an exponential pattern": {"type": "string", "pattern": "(a?){1000}a{1000}"},
    "a bomb": {
        "$defs": {
            f"x{each}": {"anyOf": [{"$ref": f"#/$defs/x{each + 1}"}] * 10} for each in range(30)
        }
        | {"x30": {"type": "null"}},
        "$ref": "#/$defs/x0",
    },
    "too long": {"enum": ["x" * MAX_BYTES]},
    "too many schemas": {"prefixItems": [{}] * 25_000},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_end(compiler: GrammarCompiler, name: str) -> None:
    """Compiled or refused, and a first mask made, within the limits."""
    try:
        matcher = compiler.json_schema(HOSTILE[name]).matcher()
        assert not matcher.is_finished
        matcher.forced(10)
    except InvalidRequest as error:
        assert error.field == "json_schema"


def test_deep_schemas_are_refused(compiler: GrammarCompiler) -> None:
    """Before anything recurses too deep."""
    for depth in (300, 100_000):
        schema: Any = {}
        for _ in range(depth):
            schema = {"items": schema}
        with pytest.raises(InvalidRequest, match="json_schema"):
            compiler.json_schema(schema)
        while schema:  # taken apart by hand: the interpreter would recurse
            schema = schema.pop("items", None)


VERDICTS: list[tuple[Any, list[Any], list[Any]]] = [
    ({"properties": {"a": {}}, "type": "object"}, [{}, {"a": 1}], [{"b": 1}, []]),
    ({"type": "object"}, [{"b": [1, None]}], [1]),
    ({"type": "object", "required": ["b"], "properties": {"a": {}}}, [{"b": 1}], [{"a": 1}]),
    (
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}], "type": "object"},
        [{"a": 1, "b": 2}, {}],
        [1],
    ),
    ({"oneOf": TAGGED}, [{"kind": "a"}, {"kind": "b"}], [{"kind": "c"}, {}]),
    (
        {
            "$defs": {"n": {"type": "null"}},
            "definitions": {"a/b": {"$ref": "#/$defs/n"}},
            "$ref": "#/definitions/a~1b",
        },
        ["null"],
        ["1"],
    ),
    (
        {
            "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
            "required": ["next"],
            "type": "object",
        },
        [{"next": {"next": None}}],
        [{"next": {}}],
    ),
    ({"anyOf": [NODE, {"const": 1}]}, ["1", {"next": {"next": 1}}], [{"next": {}}]),
    (
        {"items": [{"const": 1}], "additionalItems": False, "type": "array"},
        [[1], []],
        [[2], [1, 1]],
    ),
    ({"type": "string", "format": "password"}, ['"x"'], ["1"]),
    ({"type": "integer", "maximum": 2**63 - 1}, ["1"], ["1.5", str(2**63)]),
    ({"title": "x", "x-note": 5, "default": 1, "const": "é"}, ['"é"'], ['"e"']),
    ({"uniqueItems": False, "not": False, "type": "array"}, [[1, 1]], ["1"]),
    (True, ["1", "[]", '{"a":"\\n"}'], ["x"]),
    ({}, ["null"], ["nul"]),
]


@pytest.mark.parametrize(("schema", "right", "wrong"), VERDICTS, ids=lambda value: str(value)[:40])
def test_verdicts(
    compiler: GrammarCompiler, schema: Any, right: list[Any], wrong: list[Any]
) -> None:
    """What the grammar accepts is valid, and what is meant is accepted."""
    for value in right:
        text = value if isinstance(value, str) else json.dumps(value)
        assert jsonschema.Draft7Validator(schema).is_valid(json.loads(text))
        assert accepts(compiler, schema, value), value
    for value in wrong:
        assert not accepts(compiler, schema, value), value


NARROW = [
    ({"exclusiveMinimum": 1, "maximum": 1.5}, "1.25", "1"),
    ({"minimum": -1.5, "exclusiveMaximum": -1.0}, "-1.5", "-1"),
    ({"exclusiveMinimum": 0, "exclusiveMaximum": 0.5}, "0.25", "0"),
    ({"exclusiveMinimum": 10**7, "maximum": 10**7 + 0.5}, "10000000.25", "10000000"),
    ({"allOf": [{"exclusiveMinimum": 1}, {"maximum": 1.5}]}, "1.25", "1"),
]


@pytest.mark.parametrize(("bounds", "right", "wrong"), NARROW, ids=str)
def test_an_excluded_integer_beside_a_fraction(
    compiler: GrammarCompiler, bounds: dict[str, Any], right: str, wrong: str
) -> None:
    """Where no integer is allowed at all, the excluded one is not either."""
    schema = {"type": "number", **bounds}
    assert accepts(compiler, schema, right)
    assert not accepts(compiler, schema, wrong)
    assert not accepts(compiler, schema, f"{wrong}.0")


def test_white_space_and_order(compiler: GrammarCompiler) -> None:
    """As llama.cpp has them: bounded white space, properties in the schema's order."""
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    for text in ('{ "b": 1,\n  "a": 2 }', '{\n\n\t"b":1\n}'):
        assert accepts(compiler, schema, text)
    for text in ('{"a":1,"b":2}', '{"b":  1}', '{"b":1,"b":1}', '{\n\n\n"b":1}', ' {"b":1}'):
        assert not accepts(compiler, schema, text)


def test_a_grammar_is_compiled_once() -> None:
    """The same text is the same grammar, in white space or without; the oldest are forgotten."""
    compiler = make_compiler()
    first = compiler.json_schema({"type": "null"})
    assert compiler.json_schema({"type": "null"}) is first
    assert compiler.json_schema({"type": "null"}, is_compact=True) is not first
    for number in range(100):
        compiler.json_schema({"const": number})
    assert compiler.json_schema({"type": "null"}) is not first
