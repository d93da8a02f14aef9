"""What each keyword of JSON schema is, and what its value has to be.

In: a keyword and its value. Out: what is wrong with it. Keywords that no table has assert nothing
(titles, defaults, a framework's own notes): JSON schema has them ignored.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

LARGEST = sys.float_info.max
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")

SCHEMAS = ("items", "additionalProperties")
SCHEMA_MAPS = ("properties", "patternProperties")
SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")

# Bounds, and where to what they allow lies.
BOUNDS = {"minimum": 1, "exclusiveMinimum": 1, "maximum": -1, "exclusiveMaximum": -1}

NARROWEST = 1e-9  # how far from an excluded integer a number is that is surely told apart from it

# Formats that are enforced, and those of the standard that nothing enforces. All others are notes
# of a framework: `int32`, `password`, `binary`.
FORMATS = (
    *("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6"),
    *("uuid", "uri"),
)
OTHER_FORMATS = (
    *("idn-email", "idn-hostname", "uri-reference", "iri", "iri-reference", "uri-template"),
    *("json-pointer", "relative-json-pointer", "regex"),
)

# Keywords that cannot be guaranteed, and the value with which they assert nothing.
NEUTRAL: Mapping[str, Any] = {
    "not": False,
    "if": True,
    "then": True,
    "else": True,
    "contains": None,
    "minContains": None,
    "maxContains": None,
    "uniqueItems": False,
    "dependencies": {},
    "dependentRequired": {},
    "dependentSchemas": {},
    "propertyNames": True,
    "unevaluatedItems": True,
    "unevaluatedProperties": True,
    "$dynamicRef": None,
    "$recursiveRef": None,
}


def _number(value: Any) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number:
        return "must be a number"
    return "" if abs(value) <= LARGEST else "must be a number that 64-bit floats reach"


def _count(value: Any) -> str:
    is_count = not isinstance(value, bool) and isinstance(value, (int, float)) and value >= 0
    return "" if is_count and value == int(value) else "must be an integer that is not negative"


def _positive(value: Any) -> str:
    return _number(value) or ("" if value > 0 else "must be positive")


def _type(value: Any) -> str:
    kinds = value if isinstance(value, list) else [value]
    is_known = all(isinstance(each, str) and each in TYPES for each in kinds)
    return "" if kinds and is_known else f"must be made of {', '.join(TYPES)}"


def _strings(value: Any) -> str:
    is_right = isinstance(value, list) and all(isinstance(each, str) for each in value)
    return "" if is_right else "must be an array of strings"


def _string(value: Any) -> str:
    return "" if isinstance(value, str) else "must be a string"


def _format(value: Any) -> str:
    return _string(value) or (
        f"format {value!r} is not supported" if value in OTHER_FORMATS else ""
    )


def _choices(value: Any) -> str:
    return "" if isinstance(value, list) and value else "must be an array that is not empty"


def _object(value: Any) -> str:
    return "" if isinstance(value, Mapping) else "must be an object"


def _least_properties(value: Any) -> str:
    # NOTE: llguidance counts a key that is written twice as two.
    return _count(value) or ("more than 1 is not supported" if value > 1 else "")


def _anything(value: Any) -> str:
    return ""


ASSERTIONS: Mapping[str, Callable[[Any], str]] = {
    "type": _type,
    "enum": _choices,
    "const": _anything,
    "minimum": _number,
    "maximum": _number,
    "exclusiveMinimum": _number,
    "exclusiveMaximum": _number,
    "multipleOf": _positive,
    "minLength": _count,
    "maxLength": _count,
    "pattern": _string,
    "format": _format,
    "minItems": _count,
    "maxItems": _count,
    "required": _strings,
    "minProperties": _least_properties,
    "maxProperties": _count,
}


def check_value(name: str, value: Any) -> str:
    """What is wrong with the value of a keyword, "" if nothing is."""
    if name == "$ref":
        return _string(value)
    if name in SCHEMA_MAPS:
        return _object(value)
    if name in SCHEMA_LISTS:
        # An empty `prefixItems` asserts nothing; an empty choice cannot be meant.
        return _choices(value) if name != "prefixItems" or not isinstance(value, list) else ""
    return ASSERTIONS.get(name, _anything)(value)


def asserts(name: str, value: Any) -> bool:
    """Whether a plain keyword says anything to be enforced."""
    if name == "format":
        return value in FORMATS
    return name in ASSERTIONS


def inward(name: str, value: Any) -> Any:
    """The value as llguidance can hold it, which reads bounds as 64-bit floats.

    A bound in between is moved so that less is allowed, not more.
    """
    if name not in BOUNDS or int(float(value)) == value or isinstance(value, float):
        return value
    near = float(value)
    is_low = BOUNDS[name] > 0
    if (near < value) if is_low else (near > value):
        near = math.nextafter(near, BOUNDS[name] * math.inf)
    return int(near)


def is_narrow(node: Mapping[str, Any]) -> bool:
    """Whether less than 1 lies between the bounds of a number."""
    lows = [node[name] for name, inside in BOUNDS.items() if inside > 0 and name in node]
    highs = [node[name] for name, inside in BOUNDS.items() if inside < 0 and name in node]
    return bool(lows and highs) and max(lows) + 1 > min(highs)


def exclude_integers(node: dict[str, Any]) -> None:
    """Move excluded integers inward by a billionth, or by a float's last digit if that is more.

    NOTE: llguidance 1.9 takes 1 for more than 1 where nothing up to 2 is allowed but a fraction:
    `{"exclusiveMinimum": 1, "maximum": 1.5}`.
    """
    for name in ("exclusiveMinimum", "exclusiveMaximum"):
        if name in node and node.get("type") != "integer" and float(node[name]).is_integer():
            bound, inside = float(node[name]), BOUNDS[name]
            beside = math.nextafter(bound, inside * math.inf)
            node[name] = beside if abs(beside - bound) > NARROWEST else bound + inside * NARROWEST
