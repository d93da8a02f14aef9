"""How JSON values become Python values, field by field.

In: a field's name and value. Out: the converted value, or an `InvalidRequest` naming the field.
Coercion follows the server of December 2023: numbers and booleans convert into each other, null is
the default; everything else is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from libertai_engine.errors import InvalidRequest
from libertai_engine.sampling_params import INT32_MAX

RANDOM_SEED = -1
UINT32_MAX = 2**32 - 1


def wrong(name: str, expected: str) -> InvalidRequest:
    """The error for a field that should have been something else."""
    return InvalidRequest(f"`{name}` must be {expected}", field=name)


def to_float(name: str, value: Any) -> float:
    """A finite number; booleans are 1 and 0."""
    try:
        number = float(value) if isinstance(value, (bool, int, float)) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise wrong(name, "a finite number")
    return number


def to_int(name: str, value: Any, low: int = -INT32_MAX - 1, high: int = INT32_MAX) -> int:
    """An integer; fractions are cut off towards zero, booleans are 1 and 0."""
    number = value if isinstance(value, int) else math.trunc(to_float(name, value))
    if not low <= number <= high:
        raise wrong(name, f"an integer between {low} and {high}")
    return int(number)


def to_bool(name: str, value: Any) -> bool:
    """A boolean; numbers are true unless zero."""
    if not isinstance(value, (bool, int, float)):
        raise wrong(name, "true or false")
    return bool(to_float(name, value))


def to_str(name: str, value: Any) -> str:
    """A string that is valid Unicode."""
    if not isinstance(value, str):
        raise wrong(name, "a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise wrong(name, "valid Unicode, without lone surrogates") from None
    return value


def to_strings(name: str, value: Any) -> tuple[str, ...]:
    """An array of strings."""
    if not isinstance(value, list):
        raise wrong(name, "an array of strings")
    return tuple(to_str(name, each) for each in value)


def to_seed(name: str, value: Any) -> int | None:
    """A 32-bit seed; None for a random one (-1, which is 4294967295 to a 32-bit server)."""
    seed = to_int(name, value, RANDOM_SEED, UINT32_MAX)
    return None if seed in (RANDOM_SEED, UINT32_MAX) else seed


class Body:
    """A JSON object whose fields are read with a conversion and a default. Null is the default."""

    def __init__(self, fields: Any) -> None:
        if not isinstance(fields, Mapping):
            raise InvalidRequest("the request must be a JSON object")
        self.fields = fields

    def get(self, name: str, convert: Callable[[str, Any], Any], default: Any) -> Any:
        """The converted field, or `default` if it is missing or null."""
        value = self.fields.get(name)
        return default if value is None else convert(name, value)
