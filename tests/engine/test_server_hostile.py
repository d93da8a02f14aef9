"""Requests that mean harm, to the server over a real engine.

After each of them the server is healthy and a reference completion is unchanged.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.engine.serving import LONG_CONTEXT, REFERENCE, Running, check_unharmed

WORDS = [f"w{number}" for number in range(10_000)]
HOSTILE: list[tuple[str, Any, set[int]]] = [
    ("H1 junk", b"\x00\xff{", {400}),
    ("H2 array", [], {400}),
    ("H7 huge float", b'{"prompt":"a","temperature":1e400}', {400}),
    ("H7 tiny float", {"prompt": "a", "top_p": 1e-46, "n_predict": 1}, {200}),
    ("H8 hot", {"prompt": "a", "temperature": 1e38, "n_predict": 2}, {200, 400}),
    ("H8 top_p", {"prompt": "a", "top_p": -1, "n_predict": 2}, {200, 400}),
    ("H8 penalty 0", {"prompt": "a", "repeat_penalty": 0}, {400}),
    ("H8 penalty -1", {"prompt": "a", "repeat_penalty": -1}, {400}),
    ("H8 tfs", {"prompt": "a", "tfs_z": -1, "typical_p": 0, "n_predict": 2}, {200, 400}),
    ("H8 mirostat 3", {"prompt": "a", "mirostat": 3}, {400}),
    ("H8 tau", {"prompt": "a", "mirostat": 2, "mirostat_tau": -1, "n_predict": 2}, {200, 400}),
    ("H9 n_probs", {"prompt": "a", "n_probs": 10**9}, {400}),
    ("H9 n_probs -1", {"prompt": "a", "n_probs": -1}, {400}),
    ("H9 many biases", {"prompt": "a", "logit_bias": [[1, 1.0]] * 5000}, {400}),
    ("H9 bias of no token", {"prompt": "a", "logit_bias": [[10**9, 1]], "n_predict": 1}, {200}),
    (
        "H9 all banned",
        {"prompt": "a", "logit_bias": [[number, False] for number in range(400)]},
        {400},
    ),
    ("H10 n_predict -2", {"prompt": "a", "n_predict": -2}, {400}),
    ("H11 missing", {}, {400}),
    ("H11 null", {"prompt": None}, {400}),
    ("H11 space", {"prompt": " ", "n_predict": 1}, {200}),
    ("H11 empty", {"prompt": "", "n_predict": 1}, {200, 400}),
    ("H11 []", {"prompt": []}, {400}),
    ("H11 [[]]", {"prompt": [[]]}, {400, 501}),
    ("H11 [null]", {"prompt": [None]}, {400}),
    ("H11 {}", {"prompt": {}}, {400}),
    ("H11 5", {"prompt": 5}, {400}),
    ("H11 [1.5]", {"prompt": [1.5]}, {400}),
    ("H11 [-1]", {"prompt": [-1]}, {400}),
    ("H11 [10^9]", {"prompt": [10**9]}, {400}),
    ("H11 [10^30]", {"prompt": [10**30]}, {400}),
    ("H11 mixed", {"prompt": ["a", [1], 2]}, {400, 501}),
    ("H12 emoji", {"prompt": "🙂" * 50_000}, {400}),
    ("H12 surrogates", b'{"prompt":"\\ud800\\udc00\\udc00 \\ud83d"}', {400}),
    ("H12 nul", {"prompt": "\0" * 10, "n_predict": 1}, {200}),
    ("H12 control text", {"prompt": "<|im_end|>" * 10, "n_predict": 1}, {200}),
    ("H12 line feeds", {"prompt": "\n" * 1_000_000}, {400}),
    ("H13 empty stop", {"prompt": "a", "stop": "", "n_predict": 1}, {200}),
    ("H13 empty stops", {"prompt": "a", "stop": ["", None], "n_predict": 1}, {200}),
    ("H13 number", {"prompt": "a", "stop": [5]}, {400}),
    ("H13 many words", {"prompt": "a", "stop": WORDS}, {400}),
    ("H13 long word", {"prompt": "a", "stop": ["x" * 1_000_000]}, {400}),
    ("H13 half character", b'{"prompt":"a","stop":["\\ud83d"]}', {400}),
    ("H18 slot 99", {"prompt": "a", "slot_id": 99}, {400}),
    ("H18 slot -7", {"prompt": "a", "id_slot": -7}, {400}),
    ("H18 slot 2^31", {"prompt": "a", "slot_id": 2**31}, {400}),
]


@pytest.mark.parametrize(
    ("body", "statuses"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE]
)
def test_hostile_completions(
    server: Running, reference: dict[str, Any], body: Any, statuses: set[int]
) -> None:
    """Each ends at once with a defined status, streaming or not, and harms nobody."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    bodies = [raw]
    if isinstance(body, dict):
        bodies.append(json.dumps({**body, "stream": True}).encode())
    for each in bodies:
        start = time.monotonic()
        reply = server.send("POST", "/completion", each)
        assert time.monotonic() - start < 5
        assert reply.status in statuses, reply.body[:300]
        if reply.status != 200:
            assert "Traceback" not in reply.error["message"]
    check_unharmed(server, reference)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/tokenize", {"content": 5}, 400),
        ("/tokenize", {"content": [["a"]]}, 400),
        ("/tokenize", {}, 200),
        ("/tokenize", b'{"content":"\\ud800"}', 400),
        ("/detokenize", {"tokens": "abc"}, 400),
        ("/detokenize", {"tokens": [10**9]}, 400),
        ("/detokenize", {"tokens": [-1]}, 400),
        ("/detokenize", {"tokens": ["a"]}, 400),
        ("/detokenize", {"tokens": [0xE9 + 3]}, 200),  # one byte of a character
        ("/detokenize", {}, 200),
        ("/infill", b"[", 400),
    ],
)
def test_hostile_tokens(
    server: Running, reference: dict[str, Any], path: str, body: Any, status: int
) -> None:
    """The other routes are as strict; broken bytes come out as U+FFFD."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = server.send("POST", path, raw)
    assert reply.status == status, reply.body
    if body == {"tokens": [0xE9 + 3]}:
        assert reply.json == {"content": "\ufffd"}
    check_unharmed(server, reference)


FIELDS = (
    "temperature top_k top_p min_p tfs_z typical_p repeat_penalty repeat_last_n penalize_nl "
    "presence_penalty frequency_penalty mirostat mirostat_tau mirostat_eta seed ignore_eos n_probs "
    "n_predict n_keep stream cache_prompt slot_id id_slot stop logit_bias"
).split()
VALUES = ["5", "x", True, -1, 0, 1.5, 2**31, 2**63, 10**400, 1e-46, [], {}, [[]], [{}], ["a", 1]]


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_with_every_type(server: Running, field: str) -> None:
    """200, or 400 that names the field: never a crash, a hang or a 500. Null is the default."""
    assert server.post("/completion", {**REFERENCE, field: None, "n_predict": 1}).status == 200
    for value in VALUES:
        reply = server.post("/completion", {"prompt": "a", "n_predict": 1, field: value})
        assert reply.status in (200, 400), (value, reply.body)
        if reply.status == 400:
            assert f"`{field}`" in reply.error["message"], value
    assert server.get("/health").status == 200


def test_a_prompt_of_megabytes_is_refused_without_stopping_others(
    server: Running, reference: dict[str, Any]
) -> None:
    """While it is being looked at, /health answers."""
    body = {"prompt": "a b " * 500_000}
    with ThreadPoolExecutor(1) as pool:
        refused = pool.submit(server.post, "/completion", body)
        slowest = 0.0
        while not refused.done():
            start = time.monotonic()
            assert server.get("/health").status == 200
            slowest = max(slowest, time.monotonic() - start)
    error = refused.result().error
    assert (error["code"], error["type"]) == (400, "exceed_context_size_error")
    assert error["n_prompt_tokens"] > error["n_ctx"] == LONG_CONTEXT
    assert slowest < 1
    check_unharmed(server, reference)
