"""The body of a request: read within limits, then parsed strictly.

In: ASGI messages of a client one does not trust. Out: a JSON object as a `dict`, or a `Refusal`.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any, NoReturn

from starlette.requests import Request

from libertai_engine.http.answers import ClientGone, Refusal, invalid

MAX_DEPTH = 200
MAX_MEMBERS = 100_000
MAX_ITEMS = 1_000_000
COUNT_BYTES = 64 << 10
PARSE_INLINE_BYTES = 64 << 10  # below this the thread costs more than the parsing


async def read_object(request: Request, max_bytes: int, timeout: float) -> dict[str, Any]:
    """The JSON object that the client sends, whatever content type it claims.

    `timeout` is in seconds for the whole body. Raises `Refusal` (400, 408, 413, 415) and
    `ClientGone`.
    """
    _check_headers(request, max_bytes)
    try:
        body = await asyncio.wait_for(_read(request, max_bytes), timeout)
    except asyncio.TimeoutError:
        message = f"the body did not arrive within {timeout:g} s"
        raise Refusal(408, "timeout_error", message) from None
    if len(body) <= PARSE_INLINE_BYTES:
        return parse_object(body)
    return await asyncio.to_thread(parse_object, body)


def _check_headers(request: Request, max_bytes: int) -> None:
    headers = request.headers
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise invalid("compressed bodies are not accepted", 415)
    if int(headers.get("content-length", 0)) > max_bytes:
        raise _too_large(max_bytes)


async def _read(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(413, "request_too_large", f"the body is larger than {max_bytes} bytes")


def parse_object(body: bytes) -> dict[str, Any]:
    """Strict JSON: UTF-8, one object, no NaN, bounded depth and size. Raises `Refusal` 400.

    Of duplicate keys the last one wins.
    """
    if not body.strip():
        raise invalid("the body is empty: it must be a JSON object")
    _check_size(body)
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise invalid(f"the body is not valid JSON: {error.msg} ({where})") from None
    except UnicodeDecodeError:
        raise invalid("the body is not valid UTF-8") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, endless nesting
        raise invalid("the body is not valid JSON: too deep, or a number is too long") from None
    if not isinstance(value, dict):
        raise invalid("the body must be a JSON object")
    _check_depth(value)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise invalid(f"the body is not valid JSON: {name} is not a number")


def _check_size(body: bytes) -> None:
    # NOTE: a few bytes of JSON make a Python object of a hundred, so values are counted first.
    # Prompts hold colons and brackets too, hence the exact count when the quick one is high.
    if _is_large(_count(body)) and _is_large(_count_outside_strings(body)):
        raise invalid("the body holds too many values")


def _count(text: bytes) -> Counter[str]:
    """At most how many arrays and objects, members of objects, and items there are."""
    containers = text.count(b"{") + text.count(b"[")
    return Counter(containers=containers, members=text.count(b":"), items=text.count(b","))


def _count_outside_strings(body: bytes) -> Counter[str]:
    bare = body.replace(rb"\\", b"").replace(rb"\"", b"")
    total: Counter[str] = Counter()
    is_in_string = 0
    for start in range(0, len(bare), COUNT_BYTES):
        pieces = bare[start : start + COUNT_BYTES].split(b'"')
        total += _count(b"".join(pieces[is_in_string::2]))
        is_in_string = (is_in_string + len(pieces) - 1) % 2
    return total


def _is_large(count: Counter[str]) -> bool:
    return max(count["containers"], count["members"]) > MAX_MEMBERS or count["items"] > MAX_ITEMS


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _containers(outer)]
        if not level:
            return
    raise invalid(f"the body is nested deeper than {MAX_DEPTH} levels")


def _containers(outer: Any) -> list[Any]:
    inner = outer.values() if isinstance(outer, dict) else outer
    return [item for item in inner if isinstance(item, (dict, list))]
