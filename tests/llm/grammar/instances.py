"""Instances near a schema: some satisfy it, some just do not.

In: a schema and a source of chance. Out: JSON values; whether one is valid is for jsonschema to
say.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from random import Random
from typing import Any

from tests.llm.grammar.oracle import resolve

MAX_DEPTH = 5
FORMATS = {
    "date": ["2024-02-29", "1987-11-05"],
    "date-time": ["2024-02-29T23:59:59Z", "1987-11-05T00:00:00.25+02:00"],
    "time": ["23:59:59Z", "00:00:00.5-08:00"],
    "duration": ["P1D", "PT2H30M"],
    "uuid": ["123e4567-e89b-12d3-a456-426614174000"],
    "email": ["ada@example.org"],
    "ipv4": ["10.0.0.255"],
    "ipv6": ["fe80::1", "1:2:3:4:5:6:7:8"],
    "hostname": ["www.example.org"],
    "uri": ["https://example.org/a?b=c#d"],
    "json-pointer": ["/a/0"],
}
# One of these matches each pattern of the cases.
TEXTS = [
    *("", "a", "ab", "abc", "b", "aa", "b1", "x", "de", "EUR", "12345", "v1.2.3", "0xFF", "10"),
    *("AB-C 12", "a-slug", "ABC", "AB1234", "a_table", "MSFT", "é", "日本", "👍", "line\nbreak"),
    *('"quoted"', "back\\slash", "dogs", "2024-02-29", "a.c", "ababddd", "небо", "a1"),
    *("some longer text of about forty letters..", "ababab", "-12.5"),
]
NAMES = ["foo", "a", "x-1", "fob", "az", "xz", "aa", "b", "", "größe", "foobar"]
OTHERS: list[Any] = [None, True, 0, 1, -1, 2.5, 10**6, "", "zz", [], [None], {}, {"zz": 1}]


class Instances:
    """Instances of one schema. Invariant: the same seed makes the same instances."""

    def __init__(self, root: Any, seed: int) -> None:
        self.root = root
        self.random = Random(seed)

    def likely(self) -> Any:
        """An instance that probably satisfies the schema."""
        return self._of(self.root, 0)

    def unlikely(self) -> Any:
        """One that was likely, changed at one place."""
        return self._changed(self.likely())

    def _of(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, Mapping) or not schema or depth > 2 * MAX_DEPTH:
            return copy.deepcopy(self.random.choice(OTHERS))
        schema = self._flat(schema, depth)
        listed = [schema["const"]] if "const" in schema else schema.get("enum")
        return copy.deepcopy(self.random.choice(listed)) if listed else self._typed(schema, depth)

    def _typed(self, schema: Mapping[str, Any], depth: int) -> Any:
        kind = schema.get("type") or self._kind(schema)
        kind = self.random.choice(kind) if isinstance(kind, list) else kind
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        scalars = {"string": self._text, "integer": self._integer, "number": self._number}
        if kind in scalars:
            return scalars[kind](schema)
        return self.random.choice([True, False]) if kind == "boolean" else None

    def _kind(self, schema: Mapping[str, Any]) -> str:
        if {"properties", "required", "patternProperties"} & set(schema):
            return "object"
        if {"items", "minItems", "maxItems"} & set(schema):
            return "array"
        is_number = {"minimum", "maximum", "multipleOf"} & set(schema)
        return "integer" if is_number else "string"

    def _flat(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """The schema with its references followed, one alternative chosen, all parts in one."""
        found = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
        parts = [resolve(schema["$ref"], self.root)] if "$ref" in schema else []
        parts += schema.get("allOf", [])
        for keyword in ("anyOf", "oneOf"):
            if keyword in found:
                options = found.pop(keyword)
                ends = [each for each in options if "$ref" not in str(each)]
                parts.append(self.random.choice(ends if ends and depth > 2 else options))
        for part in parts:
            own = self._flat(part, depth) if isinstance(part, Mapping) else {}
            found["properties"] = {**found.get("properties", {}), **own.get("properties", {})}
            found["required"] = [*found.get("required", ()), *own.get("required", ())]
            found = {key: value for key, value in found.items() if value or key not in own}
            found = {**own, **found}
            found = {k: v for k, v in found.items() if v or k not in ("properties", "required")}
        return found

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        required = schema.get("required", [])
        named = dict.fromkeys([*schema.get("properties", {}), *required])
        chance = 0.7 if depth < MAX_DEPTH else 0
        found = {
            name: self._of(schema.get("properties", {}).get(name, True), depth + 1)
            for name in named
            if name in required or self.random.random() < chance
        }
        others = schema.get("additionalProperties", not named)
        patterns = list(schema.get("patternProperties", {}).values())
        if (others is False and not patterns) or depth >= MAX_DEPTH:
            return found
        for name in self.random.sample(NAMES, self.random.randint(0, 2)):
            value = self._of(self.random.choice([*patterns, others]), depth + 1)
            found.setdefault(name, value)
        return found

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        items, first = schema.get("items", True), schema.get("prefixItems", [])
        if isinstance(items, list):
            items, first = schema.get("additionalItems", True), items
        low = schema.get("minItems", 0)
        high = min(schema.get("maxItems", low + 3), max(low, 3) if depth < MAX_DEPTH else low)
        high = min(high, len(first)) if items is False else high
        schemas = [*first, *[items] * high][: self.random.randint(min(low, high), high)]
        return [self._of(each, depth + 1) for each in schemas]

    def _text(self, schema: Mapping[str, Any]) -> str:
        if schema.get("format") in FORMATS:
            return self.random.choice(FORMATS[schema["format"]])
        low, high = schema.get("minLength", 0), schema.get("maxLength", 60)
        text = self.random.choice(TEXTS)
        if "pattern" not in schema and not low <= len(text) <= high:
            text = (text + "abcdefghijklmnopqrstuvwxyz" * 2)[: self.random.randint(low, high)]
        return text

    def _integer(self, schema: Mapping[str, Any]) -> int:
        low, high, step = self._bounds(schema)
        value = self.random.choice([round(low + 0.5), round(high - 0.5)])
        value = self.random.choice([value, self.random.randint(value - 5, value + 5)])
        return int(value // step * step)

    def _number(self, schema: Mapping[str, Any]) -> float:
        low, high, _ = self._bounds(schema)
        chosen = [low, high, round(self.random.uniform(low, high), self.random.randint(0, 4))]
        return self.random.choice(chosen) or 0

    def _bounds(self, schema: Mapping[str, Any]) -> tuple[float, float, int]:
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        low = (-50 if high is None else high - 50) if low is None or low is True else low
        high = low + 100 if high is None or high is True else high
        return low, high, schema.get("multipleOf", 1)

    def _changed(self, value: Any) -> Any:
        if isinstance(value, dict) and value and self.random.random() < 0.9:
            return self._changed_object(value)
        if isinstance(value, list) and value and self.random.random() < 0.9:
            return self._changed_array(value)
        if isinstance(value, str) and self.random.random() < 0.7:
            at = self.random.randint(0, len(value))
            return self.random.choice([value[:at] + "~" + value[at:], value[1:], value * 9])
        if isinstance(value, int | float) and self.random.random() < 0.7:
            return self.random.choice([value + 1000, -value - 1, value + 0.5, str(value)])
        return copy.deepcopy(self.random.choice(OTHERS))

    def _changed_object(self, value: dict[str, Any]) -> dict[str, Any]:
        name = self.random.choice(list(value))
        way = self.random.random()
        if way < 0.2:
            return {key: inner for key, inner in value.items() if key != name}
        if way < 0.3:
            return {**value, "further": 1}
        return {**value, name: self._changed(value[name])}

    def _changed_array(self, value: list[Any]) -> list[Any]:
        at = self.random.randrange(len(value))
        way = self.random.random()
        if way < 0.2:
            return value[:at] + value[at + 1 :]
        if way < 0.4:
            return value + value * 3
        return [*value[:at], self._changed(value[at]), *value[at + 1 :]]
