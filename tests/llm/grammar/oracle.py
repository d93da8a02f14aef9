"""What jsonschema says about an instance.

In: a schema as a user gives it. Out: true or false. `strict` says in the schema's own words what
the grammar documents: no properties beyond those that are named, `nullable`, the older drafts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft4Validator, Draft7Validator, Draft202012Validator
from jsonschema.protocols import Validator

VALIDATORS: dict[int, type[Validator]] = {
    4: Draft4Validator,
    7: Draft7Validator,
    2020: Draft202012Validator,
}
NAMING = ("properties", "patternProperties", "additionalProperties", "required")
IN_PLACE = ("allOf", "anyOf", "oneOf")
BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
SINGLE = ("items", "additionalProperties", "additionalItems", "propertyNames")


def validator(schema: Any, draft: int = 2020) -> Validator:
    """Says `is_valid(instance)`, formats included."""
    chosen = VALIDATORS[draft]
    return chosen(schema, format_checker=chosen.FORMAT_CHECKER)


def strict(schema: Any) -> Any:
    """The schema with its objects closed where they name properties (2020-12 only)."""
    return _closed(schema, schema, is_value=True)


def _closed(schema: Any, root: Any, *, is_value: bool) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    made = {key: _inner(key, inner, root) for key, inner in schema.items()}
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        made["type"] = [schema["type"], "null"]
    if is_value and any(set(NAMING) & set(part) for part in _in_place(schema, root)):
        made["unevaluatedProperties"] = False
    if "required" in schema and "additionalProperties" not in schema:
        # What is required is named.
        made["properties"] = dict.fromkeys(schema["required"], True) | made.get("properties", {})
    return made


def _inner(key: str, inner: Any, root: Any) -> Any:
    if key in BY_NAME and isinstance(inner, Mapping):
        # A definition is closed where it is referred to.
        is_value = key in ("properties", "patternProperties")
        return {name: _closed(each, root, is_value=is_value) for name, each in inner.items()}
    if key in IN_PLACE:
        return [_closed(each, root, is_value=False) for each in inner]
    if key == "prefixItems":
        return [_closed(each, root, is_value=True) for each in inner]
    return _closed(inner, root, is_value=True) if key in SINGLE else inner


def _in_place(schema: Any, root: Any, seen: tuple[str, ...] = ()) -> Iterator[Mapping[str, Any]]:
    """The schema and all that hold for the same value."""
    if not isinstance(schema, Mapping):
        return
    yield schema
    for keyword in IN_PLACE:
        for each in schema.get(keyword, ()):
            yield from _in_place(each, root, seen)
    reference = schema.get("$ref")
    if reference and reference not in seen:
        yield from _in_place(resolve(reference, root), root, (*seen, reference))


def resolve(reference: str, root: Any) -> Any:
    """What a `$ref` within the schema leads to."""
    found = root
    for key in reference.split("/")[1:]:
        plain = key.replace("~1", "/").replace("~0", "~").replace("%25", "%")
        found = found[int(plain) if isinstance(found, list) else plain]
    return found
