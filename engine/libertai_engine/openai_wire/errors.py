"""Errors in the shape that OpenAI's clients read.

In: the error object of the llama-like API, and the field it is about. Out: OpenAI's object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Where OpenAI has a code of its own for it; clients look for these words.
_CODES = {
    "exceed_context_size_error": "context_length_exceeded",
    "authentication_error": "invalid_api_key",
    "not_found_error": "not_found",
}


def openai_error(error: Mapping[str, Any], field: str | None) -> dict[str, Any]:
    """`{message, type, param, code}` and what else the error tells; `code` is a word or None."""
    return {**error, "param": field, "code": _CODES.get(error["type"])}
