"""Clients that leave, queues that fill, an engine that dies: seen from the slots."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from tests.engine.serving import (
    LONG_CONTEXT,
    REFERENCE,
    Reply,
    Running,
    check_unharmed,
    read_all,
    request_bytes,
    running,
    wait_until,
)

ENDLESS = {"prompt": "Once", "n_predict": -1, "ignore_eos": True}


def is_idle(engine: Engine) -> bool:
    load = engine.load
    return load.num_idle_slots == engine.num_slots and load.num_waiting == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot(
    server: Running, engine: Engine, reference: dict[str, Any], stream: bool
) -> None:
    """While tokens are generated."""
    with server.connect() as client:
        body = json.dumps({**ENDLESS, "stream": stream}).encode()
        client.sendall(request_bytes("POST", "/completion", body))
        if stream:
            assert client.recv(100)
        wait_until(lambda: engine.load.num_running == 1)
    wait_until(lambda: is_idle(engine), timeout=2)
    check_unharmed(server, reference)


def test_a_client_that_leaves_during_prefill_frees_its_slot(
    server: Running, engine: Engine, reference: dict[str, Any]
) -> None:
    """Between two chunks of its prompt: long before the prompt would have been evaluated."""
    prompt = [300] * (LONG_CONTEXT - 10)
    start = time.monotonic()
    server.post("/completion", {"prompt": prompt, "n_predict": 0})
    whole = time.monotonic() - start
    for stream in (False, True):
        body = json.dumps({"prompt": prompt, "n_predict": 0, "stream": stream}).encode()
        with server.connect() as client:
            client.sendall(request_bytes("POST", "/completion", body))
            wait_until(lambda: engine.load.num_running == 1)
        start = time.monotonic()
        wait_until(lambda: is_idle(engine))
        assert time.monotonic() - start < whole / 2
    check_unharmed(server, reference)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_the_queue_is_forgotten(
    server: Running, engine: Engine, stream: bool
) -> None:
    """A waiting request goes away at once, those that run are not touched."""
    body = json.dumps({**ENDLESS, "stream": True}).encode()
    running_clients = [server.connect() for _ in range(2)]
    try:
        for client in running_clients:
            client.sendall(request_bytes("POST", "/completion", body))
        wait_until(lambda: engine.load.num_running == 2)
        with server.connect() as waiting:
            third = json.dumps({**ENDLESS, "stream": stream}).encode()
            waiting.sendall(request_bytes("POST", "/completion", third))
            wait_until(lambda: engine.load.num_waiting == 1)
        wait_until(lambda: engine.load.num_waiting == 0, timeout=2)
        assert engine.load.num_running == 2
    finally:
        for client in running_clients:
            client.close()
    wait_until(lambda: is_idle(engine), timeout=2)


def test_a_full_queue_answers_503(long_model: Path) -> None:
    """One slot and a queue of one: of ten at once exactly two are served; one by one, all are."""
    config = EngineConfig(model=str(long_model), num_slots=1, max_queue=1, threads=1)
    with load_engine(config, progress=False) as engine, running(CompletionAPI(engine)) as server:
        barrier = threading.Barrier(10)

        def ask(number: int) -> Reply:
            barrier.wait()
            body = {"prompt": f"{number}", "n_predict": 800, "ignore_eos": True}
            return server.post("/completion", body)

        with ThreadPoolExecutor(10) as pool:
            replies = list(pool.map(ask, range(10)))
        assert sorted(reply.status for reply in replies) == [200] * 2 + [503] * 8
        for reply in replies:
            if reply.status == 503:
                assert reply.error["type"] == "unavailable_error"
                assert int(reply.headers["retry-after"]) >= 1
        for _ in range(30):
            assert server.post("/completion", REFERENCE).status == 200


def test_a_dead_engine_is_visible(long_model: Path) -> None:
    """/health and everything else say 503, at once."""
    config = EngineConfig(model=str(long_model), num_slots=1, threads=1)
    with load_engine(config, progress=False) as engine, running(CompletionAPI(engine)) as server:
        with server.connect() as client:
            body = json.dumps({**ENDLESS, "stream": True}).encode()
            client.sendall(request_bytes("POST", "/completion", body))
            assert client.recv(100)
            engine.close()
            assert b'"code":503' in read_all(client)
        assert server.get("/health").error["type"] == "unavailable_error"
        assert server.post("/completion", REFERENCE).status == 503
