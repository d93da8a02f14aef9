"""Slots to files and back, over HTTP, and what a hostile file name gets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import load_engine
from tests.engine.serving import Running, request_bytes, running, wait_until

PROMPT = "The little girl who liked to read books about the stars"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slots")


@pytest.fixture(scope="module")
def server(tiny_model: Path, folder: Path) -> Iterator[Running]:
    config = EngineConfig(model=str(tiny_model), num_slots=2, slot_folder=folder)
    with load_engine(config, progress=False) as engine, running(CompletionAPI(engine)) as server:
        yield server


def complete(server: Running, slot: int) -> dict[str, Any]:
    body = {"prompt": PROMPT, "n_predict": 4, "temperature": 0, "seed": 1}
    reply = server.post("/completion", {**body, "slot_id": slot, "cache_prompt": True})
    assert reply.status == 200
    return dict(reply.json)


def test_save_erase_restore(server: Running, folder: Path) -> None:
    """The answer after a restore is the same, and only one token of the prompt is evaluated."""
    first = complete(server, 0)
    saved = server.post("/slots/0?action=save", {"filename": "girl.bin"}).json
    assert saved["id_slot"] == 0 and saved["filename"] == "girl.bin"
    assert saved["n_saved"] == first["tokens_cached"]
    assert saved["n_written"] == (folder / "girl.bin").stat().st_size
    assert saved["timings"]["save_ms"] >= 0
    erased = server.send("POST", "/slots/0?action=erase").json
    assert erased == {"id_slot": 0, "n_erased": saved["n_saved"]}
    restored = server.post("/slots/1?action=restore", {"filename": "girl.bin"}).json
    assert restored["n_restored"] == saved["n_saved"] and restored["n_read"] == saved["n_written"]
    again = complete(server, 1)
    assert again["content"] == first["content"]
    assert again["timings"]["prompt_n"] == 1


@pytest.mark.parametrize(
    "name",
    ["../../etc/x", "C:\\x", "a/b", "..", ".hidden", "", "x" * 300, "a\0b", "a b", "é", "a\n"],
)
@pytest.mark.parametrize("action", ["save", "restore"])
def test_only_plain_names(server: Running, folder: Path, action: str, name: str) -> None:
    """Nothing outside the folder can be named."""
    before = sorted(folder.parent.rglob("*"))
    reply = server.post(f"/slots/0?action={action}", {"filename": name})
    assert reply.status == 400 and "Invalid filename" in reply.error["message"]
    assert sorted(folder.parent.rglob("*")) == before


def test_no_link_is_followed(server: Running, folder: Path, tmp_path: Path) -> None:
    """A link in the folder leads nowhere."""
    target = tmp_path / "outside"
    target.write_text("untouched")
    (folder / "link").symlink_to(target)
    for action in ("save", "restore"):
        reply = server.post(f"/slots/0?action={action}", {"filename": "link"})
        assert reply.status == 400 and "Invalid filename" in reply.error["message"]
    assert target.read_text() == "untouched"


def test_a_bad_file_leaves_the_slot_intact(server: Running, folder: Path) -> None:
    """Random bytes, or nothing at all: 400, and the slot still has its tokens."""
    complete(server, 0)
    (folder / "random").write_bytes(b"\x80" * 4096)
    for name in ("random", "missing"):
        reply = server.post("/slots/0?action=restore", {"filename": name})
        assert reply.status == 400 and "Unable to restore slot" in reply.error["message"]
        assert str(folder) not in reply.error["message"]
    assert complete(server, 0)["timings"]["prompt_n"] == 1


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/slots/0?action=fly", {}, 400),
        ("/slots/0", {}, 400),
        ("/slots/9?action=erase", {}, 400),
        ("/slots/x?action=erase", {}, 404),
        ("/slots/%D9%A1?action=erase", {}, 404),
        (f"/slots/{'9' * 5000}?action=erase", {}, 400),
        ("/slots/0?action=save", {"filename": 5}, 400),
        ("/slots/0?action=save", {}, 400),
    ],
)
def test_wrong_actions(server: Running, path: str, body: dict[str, Any], status: int) -> None:
    """Each is refused with a reason."""
    reply = server.post(path, body)
    assert reply.status == status and reply.error["message"]


def test_without_a_folder_there_are_no_files(tiny_model: Path) -> None:
    """Off unless the owner names a folder; erasing needs none."""
    config = EngineConfig(model=str(tiny_model), num_slots=1)
    with load_engine(config, progress=False) as engine, running(CompletionAPI(engine)) as server:
        assert server.post("/slots/0?action=save", {"filename": "x"}).status == 501
        assert server.post("/slots/0?action=erase", {}).status == 200


def test_a_body_in_chunks_is_read(server: Running, folder: Path) -> None:
    """A client need not say beforehand how long its body is."""
    complete(server, 0)
    body = b'{"filename": "chunks"}'
    head = (
        b"POST /slots/0?action=save HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    reply = server.raw(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    assert reply.status == 200 and (folder / "chunks").exists()


def test_waiting_for_a_busy_slot_holds_nobody_else_up(server: Running) -> None:
    """However many wait for a slot, others are answered; who leaves does not wait any more."""
    endless = {"prompt": PROMPT, "n_predict": 10**6, "ignore_eos": True, "slot_id": 0}
    with ExitStack() as clients:
        first = clients.enter_context(server.connect())
        first.sendall(request_bytes("POST", "/completion", json.dumps(endless).encode()))
        wait_until(lambda: server.lifecycle.api.engine.load.num_running == 1)
        for _ in range(40):
            client = clients.enter_context(server.connect())
            client.sendall(request_bytes("POST", "/slots/0?action=erase"))
        wait_until(lambda: server.lifecycle.num_requests == 41)
        assert server.post("/tokenize", {"content": "x"}).status == 200
        assert complete(server, 1)["tokens_predicted"] == 4
        assert server.send("POST", "/slots/1?action=erase").json["n_erased"] > 0
    wait_until(lambda: server.lifecycle.num_requests == 0)
    assert server.send("POST", "/slots/0?action=erase").status == 200


def test_what_nobody_waits_for_is_not_done(server: Running) -> None:
    """A client that leaves before the slot is idle leaves the slot as it is."""
    endless = {"prompt": PROMPT, "n_predict": 10**6, "ignore_eos": True, "slot_id": 0}
    with server.connect() as first:
        first.sendall(request_bytes("POST", "/completion", json.dumps(endless).encode()))
        wait_until(lambda: server.lifecycle.api.engine.load.num_running == 1)
        with server.connect() as second:
            second.sendall(request_bytes("POST", "/slots/0?action=erase"))
            wait_until(lambda: server.lifecycle.num_requests == 2)
            time.sleep(0.2)  # for the engine to hear of it
        wait_until(lambda: server.lifecycle.num_requests == 1)
    wait_until(lambda: server.lifecycle.num_requests == 0)
    assert server.send("POST", "/slots/0?action=erase").json["n_erased"] > 0
