"""Every answer of the server as bytes: compact JSON with sorted keys, and the one error shape.

In: values of the API, exceptions. Out: `JSONAnswer`s and JSON bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.responses import Response

from libertai_engine.errors import EngineError, EngineUnavailable

SERVER_ERROR = "internal server error"


class Refusal(Exception):
    """The server itself says no, before the engine is asked. Its message is safe to show.

    `type` is the error's type in today's llama-server, `headers` go out with the answer.
    """

    def __init__(
        self, status: int, type: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.headers = dict(headers or {})

    def to_json(self) -> dict[str, Any]:
        """Body of the `error` object: `{"code": int, "message": str, "type": str}`."""
        return {"code": self.status, "message": str(self), "type": self.type}


def invalid(message: str, status: int = 400) -> Refusal:
    """The refusal of a request that is wrong in itself."""
    return Refusal(status, "invalid_request_error", message)


class ClientGone(Exception):
    """The client closed the connection: there is nobody to answer."""


def json_bytes(value: Any) -> bytes:
    """UTF-8 JSON as llama.cpp's server writes it: keys sorted, no spaces, characters unescaped.

    Numbers that JSON cannot say (NaN, infinities) become `null`, lone surrogates U+FFFD.
    """
    try:
        text = _dumps(value)
    except ValueError:
        text = _dumps(_finite(value))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _dumps(value: Any) -> str:
    return json.dumps(
        value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    )


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class JSONAnswer(Response):
    """A whole answer. Its body is complete when it is built."""

    media_type = "application/json; charset=utf-8"

    def render(self, content: Any) -> bytes:
        """The value as JSON bytes."""
        return json_bytes(content)


# Members of answers that hold thousands of items, and those in which there are such members.
_LONG = ("data", "completion_probabilities", "content", "top_logprobs")
_PARENTS = ("choices", "logprobs")


class LargeAnswer(JSONAnswer):
    """A whole answer with long arrays in it, written item by item.

    NOTE: `json.dumps` holds the interpreter's lock until it is done; many small calls of it let
    others in between.
    """

    def render(self, content: Any) -> bytes:
        """The value as JSON bytes."""
        if isinstance(content, list):
            return _array(map(self.render, content))
        if isinstance(content, Mapping):
            members = (
                json_bytes(name) + b":" + self._member(name, value)
                for name, value in sorted(content.items())
            )
            return b"{" + b",".join(members) + b"}"
        return json_bytes(content)

    def _member(self, name: str, value: Any) -> bytes:
        if name in _PARENTS:
            return self.render(value)
        if name in _LONG and isinstance(value, list):
            return _array(map(json_bytes, value))
        return json_bytes(value)


def _array(items: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"


def has_probabilities(answer: Any) -> bool:
    """Whether a generated answer, or one of several, tells of probabilities: it may be large."""
    parts = answer if isinstance(answer, list) else answer.get("choices", [answer])
    return any(part.get("completion_probabilities") or part.get("logprobs") for part in parts)


def error_object(error: Exception) -> dict[str, Any]:
    """`{"error": {code, message, type}}`; of an unexpected exception nothing is told."""
    if isinstance(error, (EngineError, Refusal)):
        return {"error": error.to_json()}
    return {"error": {"code": 500, "message": SERVER_ERROR, "type": "server_error"}}


def error_answer(
    error: Exception, write: Callable[[Exception], dict[str, Any]] = error_object
) -> JSONAnswer:
    """The error as a whole answer with its status and headers; `write` makes its JSON object."""
    status = error.status if isinstance(error, (EngineError, Refusal)) else 500
    headers = error.headers if isinstance(error, Refusal) else {}
    if isinstance(error, EngineUnavailable):
        headers = {"retry-after": str(max(1, math.ceil(error.retry_after)))}
    return JSONAnswer(write(error), status_code=status, headers=headers)
