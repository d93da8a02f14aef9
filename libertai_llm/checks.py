"""Checks of single option values: what a field of `CompletionParams` may hold.

In: a name and a value. Out: the value as JSON will carry it, or `InvalidOption` naming the field.
The makers (`integer()`, `words()`, …) give the metadata of a dataclass field.
"""

from __future__ import annotations

import base64
import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from libertai_llm.errors import InvalidOption

Check = Callable[[str, Any], Any]
Metadata = dict[str, Any]
CHECK, WIRE = "check", "wire"
INT32_MAX = 2**31 - 1


def integer(low: int = -INT32_MAX - 1, high: int = INT32_MAX, *, wire: str = "") -> Metadata:
    """A whole number in a range (both ends included)."""
    return {CHECK: lambda name, value: check_integer(name, value, low, high), WIRE: wire}


def number(low: float = -math.inf) -> Metadata:
    """A finite number, at least `low`."""
    return {CHECK: lambda name, value: check_number(name, value, low)}


def positive() -> Metadata:
    """A finite number above zero."""
    return {CHECK: _check_positive}


def boolean() -> Metadata:
    """True or False."""
    return {CHECK: _check_boolean}


def text() -> Metadata:
    """A string of valid Unicode."""
    return {CHECK: check_text}


def strings() -> Metadata:
    """A list of strings."""
    return {CHECK: _check_strings}


def words() -> Metadata:
    """One string or a list of them; empty ones stop nothing and are left out."""
    return {CHECK: _check_words}


def logit_bias() -> Metadata:
    """`{id: bias}` or `[[id, bias], …]`; a bias is a number, or False for "never"."""
    return {CHECK: _check_bias}


def json_object() -> Metadata:
    """A JSON object."""
    return {CHECK: check_json_object}


def text_object() -> Metadata:
    """An object whose values are strings."""
    return {CHECK: check_text_object}


def images() -> Metadata:
    """A list of `{"data": base64 text or bytes, "id": int}`."""
    return {CHECK: _check_images}


def check_integer(name: str, value: Any, low: int, high: int) -> int:
    """Whole numbers of any kind (NumPy's too, and 3.0), but not booleans."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        whole = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        whole = None
    if whole is None or not low <= whole <= high:
        raise _wrong(name, f"an integer between {low} and {high}")
    return whole


def check_number(name: str, value: Any, low: float = -math.inf) -> float:
    """A finite int or float (NumPy's too), but not a boolean and not text."""
    is_number = hasattr(value, "__float__") or hasattr(value, "__index__")
    if isinstance(value, (bool, str, bytes)) or not is_number:
        raise _wrong(name, "a number")
    try:
        real = float(value)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(name, "a finite number") from None
    # NOTE: the server reads 32-bit floats; 1e300 would arrive there as infinity.
    if not abs(real) < 3.4e38 or real < low:
        raise _wrong(name, "a finite number" + ("" if low == -math.inf else f" from {low:g}"))
    return value if isinstance(value, int) else real


def check_text(name: str, value: Any) -> str:
    """A string that UTF-8 can carry."""
    if not isinstance(value, str):
        raise _wrong(name, "a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(name, "valid Unicode, without lone surrogates") from None
    return str(value)


def check_prompt(value: Any) -> str | list[int | str]:
    """A string, or token ids and strings that together are one prompt.

    A list of several strings is refused: today's servers read it as several prompts.
    """
    if isinstance(value, str):
        return check_text("prompt", value)
    if not _is_list(value) or not value:
        raise _wrong("prompt", "a string, or a list of token ids and strings")
    if len(value) > 1 and all(isinstance(each, str) for each in value):
        raise _wrong("prompt", "one prompt: join the strings, or call once for each")
    return [
        check_text("prompt", each)
        if isinstance(each, str)
        else check_integer("prompt", each, 0, INT32_MAX)
        for each in value
    ]


def check_json_object(name: str, value: Any) -> dict[str, Any]:
    """A mapping that JSON can carry, with string keys; no NaN, no infinity."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _wrong(name, "an object with string keys")
    try:
        json.dumps(dict(value), allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _wrong(name, f"what JSON can carry ({type(error).__name__})") from None
    return dict(value)


def _check_positive(name: str, value: Any) -> float:
    if (real := check_number(name, value)) <= 0:
        raise _wrong(name, "a number above 0")
    return real


def _check_boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "True or False")
    return value


def _check_strings(name: str, value: Any) -> list[str]:
    if not _is_list(value):
        raise _wrong(name, "a list of strings")
    return [check_text(name, each) for each in value]


def _check_words(name: str, value: Any) -> list[str]:
    listed = [value] if isinstance(value, str) else value
    # NOTE: the server of 2023 takes an empty stop word for "stop at the first token".
    return [word for word in _check_strings(name, listed) if word]


def _check_bias(name: str, value: Any) -> list[list[Any]]:
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not _is_list(pairs) or not all(_is_list(pair) and len(pair) == 2 for pair in pairs):
        raise _wrong(name, "a mapping of token ids to numbers (or a list of such pairs)")
    return [[_check_bias_key(name, key), _check_bias_value(name, bias)] for key, bias in pairs]


def _check_bias_key(name: str, key: Any) -> int | str:
    if isinstance(key, str) and not _ID.fullmatch(key):
        return check_text(name, key)
    if isinstance(key, str):
        # NOTE: Python reads no numbers of thousands of digits, and no id is longer than this.
        key = int(key) if len(key) < 20 else -1
    return check_integer(name, key, 0, INT32_MAX)


_ID = re.compile(r"[0-9]+")


def _check_bias_value(name: str, bias: Any) -> float | bool:
    if bias is False or bias == -math.inf:
        return False
    return check_number(name, bias)


def check_text_object(name: str, value: Any) -> dict[str, str]:
    """A mapping of strings to strings."""
    checked = check_json_object(name, value)
    return {key: check_text(f"{name}.{key}", each) for key, each in checked.items()}


def _check_images(name: str, value: Any) -> list[dict[str, Any]]:
    if not _is_list(value):
        raise _wrong(name, "a list of objects with `data` and `id`")
    return [_check_image(f"{name}[{index}]", each) for index, each in enumerate(value)]


def _check_image(name: str, image: Any) -> dict[str, Any]:
    if not isinstance(image, Mapping) or set(image) != {"data", "id"}:
        raise _wrong(name, "an object with `data` and `id`")
    data = image["data"]
    encoded = base64.b64encode(data).decode() if isinstance(data, bytes) else data
    return {
        "data": check_text(f"{name}.data", encoded),
        "id": check_integer(f"{name}.id", image["id"], 0, INT32_MAX),
    }


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


def _wrong(name: str, expected: str) -> InvalidOption:
    return InvalidOption(f"`{name}` must be {expected}", field=name)
