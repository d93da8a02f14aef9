"""Listening and signals, in a process of its own that loads no model."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from libertai_engine.config import ServerConfig
from libertai_engine.http.run import CannotListen, listen
from tests.engine.serving import parse_reply, read_all, request_bytes

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from libertai_engine.config import ServerConfig
from libertai_engine.server import serve
from tests.engine.http.test_exchange import FakeAPI
serve(FakeAPI(), ServerConfig(port=int(sys.argv[1]), drain_timeout=float(sys.argv[2])))
"""
SIGNALS = [signal.SIGTERM, signal.SIGINT]


@contextmanager
def serving(drain_timeout: float) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A serving process and its port, ready."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    argv = [sys.executable, "-c", PROGRAM, str(port), str(drain_timeout)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'engine'}"}
    with subprocess.Popen(argv, env=environment, cwd=ROOT, stderr=subprocess.PIPE) as process:
        try:
            while health(port) != 200:
                time.sleep(0.02)
            yield process, port
        finally:
            process.kill()


def health(port: int) -> int:
    """The status of /health; 0 if nobody listens."""
    try:
        with ask(port, request_bytes("GET", "/health")) as client:
            return parse_reply(read_all(client)).status
    except ConnectionError:
        return 0


def ask(port: int, request: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    client.sendall(request)
    return client


def start_stream(port: int, script: str) -> socket.socket:
    """A stream whose first bytes have arrived."""
    body = f'{{"script":{script},"stream":true}}'.encode()
    client = ask(port, request_bytes("POST", "/completion", body))
    client.recv(1, socket.MSG_PEEK)
    return client


@pytest.mark.parametrize("number", SIGNALS)
def test_one_signal_drains(number: int) -> None:
    """What runs ends whole, new requests get 503, the exit code is 0 and stderr is clean."""
    with serving(30) as (process, port), start_stream(port, '["a",1,"b"]') as client:
        process.send_signal(number)
        time.sleep(0.1)
        assert health(port) == 503
        events = parse_reply(read_all(client)).events
        assert [event["content"] for event in events] == ["a", "b", ""]
        assert process.wait(10) == 0
        assert process.stderr is not None and process.stderr.read() == b""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_at_once(number: int) -> None:
    """Whatever still runs; the exit code tells the signal."""
    with serving(30) as (process, port), start_stream(port, '["a",60]'):
        process.send_signal(number)
        time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(3) == 128 + number


def test_the_drain_time_is_kept() -> None:
    """What still runs after it is told so, and the exit code is 0 all the same."""
    with serving(0.5) as (process, port), start_stream(port, '["a",60]') as client:
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert parse_reply(read_all(client)).events[-1]["error"]["code"] == 503
        assert process.wait(5) == 0
        assert 0.4 < time.monotonic() - start < 5


def test_a_killed_server_can_be_started_again_on_its_port() -> None:
    """Connections that were open do not block the address."""
    with serving(1) as (process, port), start_stream(port, '["a",60]'):
        process.kill()
        process.wait()
        listen(ServerConfig(port=port)).close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_listening(host: str) -> None:
    """IPv4, IPv6 and names; port 0 is a free one."""
    try:
        listener = listen(ServerConfig(host=host, port=0))
    except CannotListen:
        if ":" in host:
            pytest.skip("this machine has no IPv6")
        raise
    with listener:
        assert listener.getsockname()[1] > 0


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-name.invalid"])
def test_an_address_that_is_not_ours(host: str) -> None:
    """An error that names the address and says why."""
    with pytest.raises(CannotListen, match=f"cannot listen on {host} port 0: [A-Z]"):
        listen(ServerConfig(host=host, port=0))


@pytest.mark.parametrize("host", ["\u00fc..x", "\u00fc" * 70, "\udcff"])
def test_a_name_that_no_machine_can_have(host: str) -> None:
    """The same error."""
    with pytest.raises(CannotListen, match="port 0: .*'idna'"):
        listen(ServerConfig(host=host, port=0))
