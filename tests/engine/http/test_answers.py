"""Answers as bytes: JSON as llama.cpp's server writes it, errors that tell nothing private."""

from __future__ import annotations

import pytest

from libertai_engine.errors import ContextOverflow, EngineError, EngineUnavailable, InvalidRequest
from libertai_engine.http.answers import (
    LargeAnswer,
    Refusal,
    error_answer,
    error_object,
    json_bytes,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"b": 1, "a": [True, None]}, '{"a":[true,null],"b":1}'),
        ({"text": "é\n🙂"}, '{"text":"é\\n🙂"}'),
        ({"x": float("nan"), "y": [float("-inf")]}, '{"x":null,"y":[null]}'),
        ({"half": "a\ud83db"}, '{"half":"a\ufffdb"}'),
        ([0.800000011920929], "[0.800000011920929]"),
    ],
)
def test_json_is_compact_sorted_and_always_valid(value: object, expected: str) -> None:
    """Keys sorted, no spaces, no escapes for letters; what JSON cannot say becomes null."""
    assert json_bytes(value) == expected.encode()


@pytest.mark.parametrize(
    "value",
    [
        {
            "content": "é",
            "completion_probabilities": [{"content": "a", "probs": [{"b": 1, "a": 2}]}],
        },
        [{"content": ["a"], "index": 0}, {"completion_probabilities": []}, {}, [], "x"],
        {"data": [{"embedding": [0.5, float("inf")]}], "object": "list"},
        {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"b": 1, "a": 2}]}]}}]},
        {"choices": [{"logprobs": {"top_logprobs": [{"b": 1, "a": 2}]}}, {"logprobs": None}]},
    ],
)
def test_a_large_answer_is_written_as_any_other(value: object) -> None:
    """Byte by byte the same."""
    assert LargeAnswer(value).body == json_bytes(value)


@pytest.mark.parametrize(
    ("error", "status", "type"),
    [
        (InvalidRequest("no"), 400, "invalid_request_error"),
        (ContextOverflow(9, 8), 400, "exceed_context_size_error"),
        (EngineUnavailable("later"), 503, "unavailable_error"),
        (Refusal(413, "request_too_large", "big"), 413, "request_too_large"),
        (EngineError("broken"), 500, "server_error"),
        (RuntimeError("/secret/path"), 500, "server_error"),
    ],
)
def test_every_exception_has_one_shape(error: Exception, status: int, type: str) -> None:
    """The status is in the body too; an unexpected exception's text never is."""
    answer = error_answer(error)
    assert answer.status_code == status
    assert error_object(error)["error"]["type"] == type
    assert b"secret" not in answer.body


def test_unavailable_says_when_to_come_back() -> None:
    """Retry-After is in whole seconds and never 0."""
    assert error_answer(EngineUnavailable("later", retry_after=0.2)).headers["retry-after"] == "1"
    assert error_answer(EngineUnavailable("later", retry_after=2.5)).headers["retry-after"] == "3"
