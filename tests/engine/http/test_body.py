"""Strict parsing of a body: what is refused, why, and at what cost."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from libertai_engine.http.answers import Refusal
from libertai_engine.http.body import MAX_DEPTH, parse_object

MIB = 1 << 20


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"{", "not valid JSON"),
        (b'{"a":1} x', "not valid JSON"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":-Infinity}', "Infinity"),
        (b'{"a":01}', "not valid JSON"),
        (b"{'a':1}", "not valid JSON"),
        (b'{"a":"\x01"}', "not valid JSON"),
        (b'{"a":"\xff"}', "UTF-8"),
        ('{"a":1}'.encode("utf-16"), "UTF-8"),
        (b'\xef\xbb\xbf{"a":1}', "not valid JSON"),
        (b"[]", "object"),
        (b'"x"', "object"),
        (b"5", "object"),
        (b"null", "object"),
        (b'{"a":' + b"9" * 10_000 + b"}", "number"),
        (nested(MAX_DEPTH + 1), "deeper"),
        (nested(100_000), "not valid JSON"),
        (b'{"a":[' + b"[]," * 200_000 + b"1]}", "too many"),
        (b'{"a":[' + b"1," * 4_000_000 + b"1]}", "too many"),
        (b"{" + b",".join(b'"%d":1' % n for n in range(600_000)) + b"}", "too many"),
    ],
)
def test_refused_quickly_with_a_reason(body: bytes, reason: str) -> None:
    """400 in well under a second of computing, whatever the body."""
    start = time.process_time()
    with pytest.raises(Refusal, match=reason) as caught:
        parse_object(body)
    assert caught.value.status == 400
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b' {"a": 1} \n', {"a": 1}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'{"a":"\\ud83d"}', {"a": "\ud83d"}),
        (b'{"a":"\\u0000"}', {"a": "\0"}),
        ('{"é":"🙂"}'.encode(), {"é": "🙂"}),
    ],
)
def test_accepted(body: bytes, value: object) -> None:
    """Duplicate keys: the last one. Strange text is the API's to judge."""
    assert parse_object(body) == value


def test_the_deepest_allowed_nesting_parses() -> None:
    """The limit is a limit, not an off-by-one."""
    assert parse_object(nested(MAX_DEPTH))


def test_a_long_prompt_is_not_mistaken_for_many_values() -> None:
    """Colons and brackets inside strings count for nothing, escaped quotes included."""
    text = (b'\\"key\\": [{\\\\}], ' * 80_000)[: 2 * MIB]
    body = b'{"prompt":"' + text[: text.rindex(b" ")] + b'"}'
    assert len(parse_object(body)["prompt"]) > MIB


def test_a_bomb_costs_little_memory() -> None:
    """A refused body of 8 MiB takes no more than six times its size while it is looked at."""
    body = b"{" + b",".join(b'"%d":{}' % n for n in range(700_000)) + b"}"
    tracemalloc.start()
    try:
        with pytest.raises(Refusal):
            parse_object(body)
        assert tracemalloc.get_traced_memory()[1] < 6 * len(body)
    finally:
        tracemalloc.stop()
