"""The server over a real engine, asked by raw sockets: answers, keys, web pages, the log."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.engine import Engine
from tests.engine.serving import LONG_CONTEXT, REFERENCE, Running, running, timeless, wait_until


def test_a_completion_in_the_documented_form(server: Running) -> None:
    """Compact JSON with sorted keys and the documented fields."""
    reply = server.post("/completion", REFERENCE)
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    sorted_again = json.dumps(reply.json, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert reply.body.decode() == sorted_again
    result = reply.json
    assert (result["prompt"], result["stop"]) == (REFERENCE["prompt"], True)
    assert result["tokens_predicted"] == result["timings"]["predicted_n"] == 6
    assert result["slot_id"] in (0, 1)


def test_a_stream_says_the_same_as_a_whole_answer(
    server: Running, reference: dict[str, Any]
) -> None:
    """Chunks put together are the content; the last event carries the figures; no [DONE]."""
    reply = server.post("/completion", {**REFERENCE, "stream": True})
    *chunks, last = reply.events
    assert all(chunk["stop"] is False and isinstance(chunk["slot_id"], int) for chunk in chunks)
    text = "".join(chunk["content"] for chunk in chunks) + last["content"]
    assert (text, last["stop"]) == (reference["content"], True)
    assert last["tokens_predicted"] == reference["tokens_predicted"]


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/x-www-form-urlencoded",
        "text/plain;charset=UTF-8",
        "application/json",
        "x",
    ],
)
def test_any_content_type(
    server: Running, reference: dict[str, Any], content_type: str | None
) -> None:
    """What curl, Node's fetch and others send by default is read as JSON."""
    headers = {} if content_type is None else {"Content_Type": content_type}
    assert timeless(server.post("/completion", REFERENCE, **headers)) == reference


def test_other_routes(server: Running, engine: Engine) -> None:
    """/tokenize and /detokenize undo each other; /props knows the engine; /completions exists."""
    tokens = server.post("/tokenize", {"content": "Hello, wörld"}).json["tokens"]
    assert tokens == engine.tokenizer.encode("Hello, wörld", add_special=False)
    text = server.post("/detokenize", {"tokens": tokens}).json["content"]
    assert text.lstrip() == "Hello, wörld"
    props = server.get("/props").json
    assert (props["total_slots"], props["default_generation_settings"]["n_ctx"]) == (
        2,
        LONG_CONTEXT,
    )
    assert server.post("/completions", REFERENCE).status == 200
    assert server.post("/infill", {"input_prefix": "a", "input_suffix": "b"}).status in (200, 501)


def test_keys_guard_every_route_but_health(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Unknown paths too; a key is accepted in two headers and appears in no log and no answer."""
    caplog.set_level(logging.DEBUG)
    with running(CompletionAPI(engine), api_keys=("alpha-key", "beta-key")) as server:
        assert server.get("/health").status == 200
        for method, path in [("POST", "/completion"), ("GET", "/props"), ("GET", "/nothing")]:
            reply = server.send(method, path, b"{}", Authorization="Bearer gamma-key")
            assert (reply.status, reply.error["type"]) == (401, "authentication_error")
            assert b"gamma" not in reply.body
        assert server.get("/props?api_key=alpha-key").status == 401
        assert server.get("/props", Authorization="bearer beta-key").status == 200
        assert server.post("/completion", REFERENCE, X_Api_Key="alpha-key").status == 200
    assert "-key" not in caplog.text


def test_web_pages(server: Running) -> None:
    """Local pages may read answers and send keys, foreign ones and foreign Hosts may not."""
    own = server.send("OPTIONS", "/completion", Origin="http://localhost:3000")
    assert (own.status, own.headers["vary"]) == (200, "Origin")
    assert own.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "authorization" in own.headers["access-control-allow-headers"]
    asked = {"Origin": "http://localhost:3000", "Access_Control_Request_Headers": "x-stainless-os"}
    asking = server.send("OPTIONS", "/v1/chat/completions", **asked)
    assert asking.headers["access-control-allow-headers"] == "x-stainless-os"
    foreign = server.send("OPTIONS", "/completion", Origin="https://evil.example")
    assert foreign.status == 200 and "access-control-allow-origin" not in foreign.headers
    refused = server.get("/props", Origin="http://localhost:3000", Host="evil.example")
    assert (refused.status, refused.error["type"]) == (403, "permission_error")


def test_one_line_a_request_and_no_prompt(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """Method, path, status and time; line ends and terminal commands of a path are escaped."""
    with caplog.at_level(logging.INFO, logger="libertai_engine"):
        server.post("/completion", {"prompt": "my secret", "n_predict": 1})
        server.get("/a%0d%0aFAKE%1b[31m")
        wait_until(lambda: len(caplog.records) == 2)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("POST /completion 200 ") and first.endswith(" ms")
    assert second.startswith("GET /a\\r\\nFAKE\\x1b[31m 404 ")
    assert "secret" not in caplog.text
