"""Refusals and failures that servers describe, turned into typed errors. No I/O.

In: status, headers and body of an HTTP answer, or an `{"error": …}` object of a stream. Out: an
`APIError` to raise. Reads `{"error": {…}}`, `{"error": "text"}`, `{"detail": …}` (text or a
FastAPI list), and pages of text or HTML.
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libertai_llm import errors
from libertai_llm.errors import APIError, InvalidReply
from libertai_llm.timeouts import Timeouts

MAX_EXCERPT = 500
MAX_ERROR_BYTES = 64 << 10
MAX_REPLY_BYTES = 64 << 20
PAGE_SECONDS = 5.0
# Of what unpacks to a thousand times its size at most.
CODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What a server said went wrong, before it is known which class that is."""

    status: int
    message: str
    type: str
    fields: Mapping[str, Any]


def http_error(status: int, headers: Mapping[str, str], body: bytes, path: str) -> APIError:
    """The error for an HTTP answer with a status from 300 on. `headers` ignore case."""
    decoded = _decode(body)
    refusal = _read_refusal(status, decoded)
    kind = _kind_of(refusal)
    if _is_busy_of_2023(status, decoded, path):
        kind = errors.SlotUnavailable
    return _make(kind, refusal, decoded, retry_after=retry_after_of(headers))


def engine_error(status: int, fields: Mapping[str, Any], retry_after: float | None) -> APIError:
    """The error that the same failure of an in-process engine would be over HTTP."""
    body = {"error": dict(fields)}
    refusal = _read_refusal(status, body)
    return _make(_kind_of(refusal), refusal, body, retry_after=retry_after)


def stream_error(item: Mapping[str, Any]) -> APIError:
    """The error for an object with `error` that came inside a stream (or with status 200)."""
    found = item["error"]
    status = found.get("code") if isinstance(found, Mapping) else None
    status = status if isinstance(status, int) and 400 <= status < 600 else 0
    refusal = _read_refusal(status, item)
    kind = _kind_of(refusal) if status else errors.ServerError
    if "slot unavailable" in refusal.message.lower():
        kind = errors.SlotUnavailable
    elif _is_overflow(refusal):
        kind = errors.ContextWindowExceeded
    error = _make(kind, refusal, item, retry_after=None)
    # A server of 2023 opens the stream first and then says that it has no slot: nothing has begun.
    error.has_begun = kind is not errors.SlotUnavailable
    return error


def page_timeouts(left: float | None) -> Timeouts:
    """How long the page of a refusal may take if its call has `left` seconds (None: no limit)."""
    seconds = PAGE_SECONDS if left is None else min(left, PAGE_SECONDS)
    return Timeouts.of(seconds, Timeouts.unlimited())


def check_coding(coding: str | None) -> None:
    """Raise `InvalidReply` for a body in which a few bytes may stand for gigabytes.

    NOTE: we ask for no compression; gateways that do it all the same do it once, with gzip.
    """
    if (coding or "").strip().lower() not in CODINGS:
        raise InvalidReply("the answer is compressed, which was not asked for")


def is_events(content_type: str | None) -> bool:
    """Whether an answer is a stream of events; it also is if nothing is said."""
    kind = (content_type or "text/event-stream").partition(";")[0].strip().lower()
    return kind not in ("application/json", "text/html", "text/plain")


def retry_after_of(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` asks for (a number or a date), or None."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(0.0, float(value)) if float(value) < float("inf") else None
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def read_reply(body: bytes) -> dict[str, Any] | list[Any]:
    """The JSON of a good answer: an object, or an array where several things were asked for.

    Raises `InvalidReply`, or what an `error` in it says.
    """
    decoded = _decode(body)
    return decoded if isinstance(decoded, list) else as_object(decoded)


def read_object(body: bytes) -> dict[str, Any]:
    """`read_reply` where nothing but an object will do."""
    return as_object(_decode(body))


def as_object(decoded: Any) -> dict[str, Any]:
    """A JSON object. Raises `InvalidReply`, or what an `error` in it says."""
    if not isinstance(decoded, dict):
        shown = _excerpt(decoded) if isinstance(decoded, str) else type(decoded).__name__
        raise InvalidReply(f"expected a JSON object, got: {shown or 'nothing'}")
    if decoded.get("error"):
        raise stream_error(decoded)
    return decoded


def _decode(body: bytes) -> Any:
    """JSON if it is JSON, else text."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body.decode(errors="replace")


def _read_refusal(status: int, decoded: Any) -> _Refusal:
    fields = decoded if isinstance(decoded, Mapping) else {}
    found = fields.get("error") or fields.get("detail") or fields
    if isinstance(found, Mapping):
        fields = found
        found = next((found[name] for name in _MESSAGES if found.get(name)), "")
    if isinstance(found, list):
        found = "; ".join(_read_detail(each) for each in found)
    message = _excerpt(found if isinstance(found, str) and found else decoded)
    kind = fields.get("type")
    kind = kind if isinstance(kind, str) else ""
    return _Refusal(status, message or f"the server answered {status}", kind, fields)


_MESSAGES = ("message", "content", "detail", "msg")


def _read_detail(each: Any) -> str:
    """An entry of FastAPI's list: `{"loc": ["body", "prompt"], "msg": "field required"}`."""
    if not isinstance(each, Mapping):
        return str(each)
    place = each.get("loc")
    where = ".".join(str(part) for part in place) if isinstance(place, list) else ""
    return f"{where}: {each.get('msg', '')}" if where else str(each.get("msg", ""))


def _excerpt(value: Any) -> str:
    """Text without markup and runs of blanks, of bounded length; "" for what is no text."""
    if not isinstance(value, str):
        return ""
    words = " ".join(_MARKUP.sub(" ", value[: 20 * MAX_EXCERPT]).split())
    return words if len(words) <= MAX_EXCERPT else words[:MAX_EXCERPT] + "…"


_MARKUP = re.compile(r"(?is)<(script|style)\b.*?</\1>|<[!/a-z][^>]*>|[\x00-\x1f\x7f]")


def _kind_of(refusal: _Refusal) -> type[APIError]:
    if _is_overflow(refusal) and refusal.status not in _KINDS:
        return errors.ContextWindowExceeded
    kind = _KINDS.get(refusal.status)
    if kind is not None:
        return kind
    if refusal.status in _BAD_REQUESTS:
        return errors.BadRequest
    return errors.ServerError if refusal.status >= 500 else APIError


_KINDS: dict[int, type[APIError]] = {
    401: errors.AuthenticationError,
    402: errors.PaymentRequired,
    403: errors.PermissionDenied,
    404: errors.NotFound,
    429: errors.RateLimited,
    501: errors.NotSupported,
    503: errors.Unavailable,
}
_BAD_REQUESTS = (400, 405, 413, 414, 415, 422, 431)
_OVERFLOW_WORDS = re.compile(
    r"context_length_exceeded|exceed_context_size|too large to process"
    r"|maximum context (size|length|window)"
    r"|(exceed|longer than|larger than|too (long|large) for|not fit).{0,80}"
    r"context (size|length|window)|context (size|length|window).{0,40}exceeded",
    re.IGNORECASE,
)
_COUNTED = re.compile(r"(\d+) tokens\D+(\d+) tokens|\((\d+)\D+(\d+)\)")


def _is_overflow(refusal: _Refusal) -> bool:
    code = refusal.fields.get("code")
    named = refusal.type == "exceed_context_size_error" or code == "context_length_exceeded"
    return named or bool(_OVERFLOW_WORDS.search(refusal.message))


def _is_busy_of_2023(status: int, decoded: Any, path: str) -> bool:
    """Busy slots of December 2023.

    NOTE: that server answers 404 and its error handler replaces the reason by `File Not Found`.
    """
    is_generating = path in ("/completion", "/infill")
    return status == 404 and is_generating and decoded in ("File Not Found", "slot unavailable")


def _make(
    kind: type[APIError], refusal: _Refusal, body: Any, *, retry_after: float | None
) -> APIError:
    message = refusal.message
    if kind is errors.SlotUnavailable:
        message += ": every slot of the server is busy (or the address has a wrong path)"
    error = kind(
        message,
        status=refusal.status,
        type=refusal.type,
        body=_excerpt(body) if isinstance(body, str) else body,
        retry_after=retry_after,
    )
    if isinstance(error, errors.ContextWindowExceeded):
        error.n_prompt_tokens, error.n_ctx = _counts(refusal)
    if "[json.exception." in message:
        # The server of 2023 could not read the body: it will not read it the next time either.
        error.is_retryable = False
    return error


def _counts(refusal: _Refusal) -> tuple[int | None, int | None]:
    told = tuple(refusal.fields.get(name) for name in ("n_prompt_tokens", "n_ctx"))
    if all(isinstance(each, int) for each in told):
        return told  # type: ignore[return-value]
    found = _COUNTED.search(refusal.message)
    numbers = [int(each) for each in found.groups() if each] if found else []
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (None, None)
