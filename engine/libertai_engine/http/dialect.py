"""How the two APIs of the server write what is not an answer: errors, and the end of a stream.

In: a path; an exception. Out: the `Dialect` of the path; the error's JSON object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from libertai_engine.http.answers import error_object
from libertai_engine.openai_wire.errors import openai_error

OPENAI_PATHS = "/v1/"


@dataclass(frozen=True, slots=True)
class Dialect:
    """`error` makes the object that reports an exception; `end` closes a stream that ended well."""

    error: Callable[[Exception], dict[str, Any]]
    end: bytes


def _openai_error_object(error: Exception) -> dict[str, Any]:
    return {"error": openai_error(error_object(error)["error"], getattr(error, "field", None))}


LLAMA = Dialect(error_object, b"")
OPENAI = Dialect(_openai_error_object, b"data: [DONE]\n\n")


def dialect_of(path: str) -> Dialect:
    """The dialect that the callers of a path read, whether such a route exists or not."""
    return OPENAI if path.startswith(OPENAI_PATHS) else LLAMA
