"""Whether a given value satisfies a schema: `enum` and `const` beside other keywords.

In: a `Place` and a decoded JSON value. Out: true or false. Reads the same keywords as the grammar
does, the same way: an object has no properties beyond those that are named, unless they are
allowed.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from libertai_llm.gbnf import strings
from libertai_llm.gbnf.automata import Automaton
from libertai_llm.gbnf.numerals import is_within, numerals
from libertai_llm.gbnf.places import Alternative, Place, expand, types_of

_DEPTH_OF_EXCLUSION = 4


def identity(value: Any) -> Hashable:
    """Equal for values that JSON schema holds equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool) or value is None:
        return ("constant", value)
    if isinstance(value, Mapping):
        return ("object", frozenset((key, identity(inner)) for key, inner in value.items()))
    if isinstance(value, list | tuple):
        return ("array", tuple(identity(inner) for inner in value))
    return ("value", value)


def type_of(value: Any) -> str:
    """The value's type in JSON schema's words; `integer` for whole numbers."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "integer" if value == int(value) else "number"
    for kind, name in ((str, "string"), (Mapping, "object")):
        if isinstance(value, kind):
            return name
    return "array"


def accepts(places: Sequence[Place], value: Any) -> bool:
    """Whether the value satisfies all the schemas."""
    return any(satisfies(alternative, value) for alternative in alternatives(places))


def alternatives(places: Sequence[Place]) -> list[Alternative]:
    """`expand`, which takes a `oneOf` for an `anyOf`, once its options are known to be exclusive.

    Raises `UnsupportedSchema` for a `oneOf` of which one value may satisfy two options.
    """
    return expand(places, on_one_of=_check_exclusive)


def _check_exclusive(place: Place) -> None:
    checked = place.document.checked
    if place.pointer in checked:
        return
    # Added at once: the check may come by here again.
    checked.add(place.pointer)
    options = place.children("oneOf")
    for index, option in enumerate(options):
        for other in options[index + 1 :]:
            if not _is_surely_empty([option, other], _DEPTH_OF_EXCLUSION):
                raise place.error(
                    "one value may satisfy two of these, which a grammar cannot exclude: "
                    "use `anyOf`, or tell them apart by a property",
                    "oneOf",
                )


def _is_surely_empty(places: Sequence[Place], depth: int) -> bool:
    """No value satisfies all the schemas, and it does not take long to see."""
    return all(_is_never(leaves, depth) for leaves in alternatives(places))


def _is_never(leaves: Alternative, depth: int) -> bool:
    listed = listed_values(leaves)
    if listed is not None:
        return not any(fits(leaves, value) for value in listed)
    return all(_is_never_of(kind, leaves, depth) for kind in types_of(leaves))


def _is_never_of(kind: str, leaves: Alternative, depth: int) -> bool:
    if kind == "string":
        texts = strings.texts(leaves)
        return texts is not None and texts.is_empty
    if kind in ("integer", "number"):
        written = numerals(leaves, is_integer=kind == "integer")
        return written is not None and written.is_empty
    if kind != "object" or not depth:
        return False
    required = [name for place in leaves for name in place.names("required")]
    schemas = (property_schemas(leaves, name) for name in required)
    return any(each is None or _is_surely_empty(each, depth - 1) for each in schemas)


def satisfies(leaves: Alternative, value: Any) -> bool:
    """Whether the value satisfies one alternative of `expand`."""
    listed = listed_values(leaves)
    is_listed = listed is None or identity(value) in {identity(each) for each in listed}
    return is_listed and fits(leaves, value)


def listed_values(leaves: Alternative) -> list[Any] | None:
    """The values that every `enum` and `const` lists, each once; None if there are none."""
    found: dict[Hashable, Any] | None = None
    for values in (values for place in leaves for values in place.lists()):
        own = {identity(value): value for value in values}
        found = own if found is None else {key: own[key] for key in found if key in own}
    return None if found is None else list(found.values())


def fits(leaves: Alternative, value: Any) -> bool:
    """Whether the value satisfies one alternative, but for what its `enum` and `const` list."""
    kind = type_of(value)
    allowed = types_of(leaves)
    if kind not in allowed and not (kind == "integer" and "number" in allowed):
        return False
    if kind == "string":
        automaton = strings.texts(leaves)
        return automaton is None or automaton.accepts(value)
    if kind == "object":
        return _is_object(leaves, value)
    if kind == "array":
        return all(_is_array(place, value) for place in leaves)
    return kind in ("null", "boolean") or all(is_within(place, value) for place in leaves)


def _is_array(place: Place, value: Sequence[Any]) -> bool:
    low, high = place.count("minItems"), place.count("maxItems")
    if len(value) < (low or 0) or (high is not None and len(value) > high):
        return False
    if place.flag("uniqueItems") and len({identity(each) for each in value}) < len(value):
        return False
    first, rest = array_items(place)
    schemas = [*first, *([rest] * max(0, len(value) - len(first)) if rest else [])]
    return all(accepts([schema], inner) for schema, inner in zip(schemas, value, strict=False))


def array_items(place: Place) -> tuple[list[Place], Place | None]:
    """The schemas of the first items, and that of all further ones, None if it is free.

    Reads `prefixItems` with `items`, and the list form of `items` with `additionalItems`.
    """
    if isinstance(place.get("items"), list | tuple):
        rest = place.child("additionalItems") if place.has("additionalItems") else None
        return place.children("items"), rest
    return place.children("prefixItems"), place.child("items") if place.has("items") else None


def _is_object(leaves: Alternative, value: Mapping[str, Any]) -> bool:
    for place in leaves:
        low, high = place.count("minProperties"), place.count("maxProperties")
        if len(value) < (low or 0) or (high is not None and len(value) > high):
            return False
        if any(name not in value for name in place.names("required")):
            return False
        if place.has("propertyNames") and not all(
            accepts([place.child("propertyNames")], name) for name in value
        ):
            return False
    return all(_is_property(leaves, name, inner) for name, inner in value.items())


def _is_property(leaves: Alternative, name: str, value: Any) -> bool:
    schemas = property_schemas(leaves, name)
    return schemas is not None and accepts(schemas, value)


def property_schemas(leaves: Alternative, name: str) -> list[Place] | None:
    """All schemas that a property of this name has to satisfy; None if there may not be one."""
    found: list[Place] = []
    is_known = False
    for place in leaves:
        own = [place.child("properties", name)] if name in place.keys("properties") else []
        own += [
            place.child("patternProperties", pattern)
            for pattern in place.keys("patternProperties")
            if key_pattern(place, pattern).accepts(name)
        ]
        if not own and place.has("additionalProperties"):
            own = [place.child("additionalProperties")]
        found += own
        is_known = is_known or bool(own) or name in place.names("required")
    return found if is_known or is_free_object(leaves) else None


def is_free_object(leaves: Alternative) -> bool:
    """Nothing says which properties there are: any may be."""
    naming = ("properties", "patternProperties", "additionalProperties", "required")
    return not any(place.has(keyword) for place in leaves for keyword in naming)


def key_pattern(place: Place, pattern: str) -> Automaton:
    """The names that a pattern of `patternProperties` speaks about."""
    return strings.pattern_automaton(place, "patternProperties", pattern)
