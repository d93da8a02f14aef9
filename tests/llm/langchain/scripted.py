"""A small real HTTP server that speaks the llama-like API of December 2023 and writes down what it
was asked.

In: real HTTP requests; an `answer` function from prompt to text, or a scripted failure. Out: real
answers, whole or as server-sent events, and the list of `seen` requests. Each client gets a sticky
cookie, and each conversation keeps the slot it asks for.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNK_CHARS = 4


class RefusedError(Exception):
    """Raised by an `answer` function: the server says 500."""


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def cookie(self) -> str:
        return self.headers.get("cookie", "")


@dataclass
class ScriptedServer:
    """What the server answers, and what it has seen. One token is one character, BOS included.

    `failure` is `(status, body)` for every completion; `props` is the answer to `GET /props`.
    """

    url: str = ""
    answer: Callable[[str], str] = lambda prompt: " fine"
    failure: tuple[int, Any] | None = None
    props: dict[str, Any] | None = None
    delay: float = 0.0
    seen: list[Seen] = field(default_factory=list)
    closed_early: threading.Event = field(default_factory=threading.Event)
    held: dict[int, str] = field(default_factory=dict)
    most_at_once: int = 0
    _running: int = 0
    _slots: Iterator[int] = field(default_factory=itertools.count)
    _cookies: Iterator[int] = field(default_factory=itertools.count)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def completions(self) -> list[dict[str, Any]]:
        """The bodies of all completions so far."""
        return [each.body for each in self.seen if each.path == "/completion"]

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The whole answer, cut at the first stop word or at `n_predict`."""
        prompt, text = body["prompt"], self.answer(body["prompt"])
        word = min(
            (stop for stop in body.get("stop", []) if stop in text), key=text.index, default=""
        )
        text = text.partition(word)[0] if word else text
        limit = body.get("n_predict", -1)
        is_cut = 0 <= limit < len(text)
        text = text[:limit] if is_cut else text
        with self._lock:
            slot = body.get("slot_id", -1)
            slot = next(self._slots) if slot < 0 else slot
            reused = _common(self.held.get(slot, ""), prompt) if body.get("cache_prompt") else 0
            self.held[slot] = prompt + text
        total = len(prompt) + 1
        return {
            "content": text,
            "generation_settings": {},
            "model": "models/scripted.gguf",
            "prompt": prompt,
            "slot_id": slot,
            "stop": True,
            "stopped_eos": not word and not is_cut,
            "stopped_limit": is_cut,
            "stopped_word": bool(word),
            "stopping_word": word,
            "timings": {
                "prompt_n": total - reused,
                "prompt_ms": 1.5,
                "predicted_n": len(text),
                "predicted_ms": 2.5,
            },
            "tokens_cached": total + len(text) - 1,
            "tokens_evaluated": total,
            "tokens_predicted": len(text),
            "truncated": False,
            **_probabilities(text, body.get("n_probs", 0)),
        }

    def enter(self) -> None:
        with self._lock:
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)

    def leave(self) -> None:
        with self._lock:
            self._running -= 1

    def new_cookie(self) -> str:
        with self._lock:
            return f"SERVERID=c{next(self._cookies)}; Path=/"


def _common(first: str, second: str) -> int:
    pairs = zip(first, second, strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _probabilities(text: str, count: int) -> dict[str, Any]:
    if not count:
        return {}
    probs = [{"tok_str": "", "prob": 0.5}, {"tok_str": "?", "prob": 0.0}][:count]
    return {
        "completion_probabilities": [
            {"content": char, "probs": [{**probs[0], "tok_str": char}, *probs[1:]]} for char in text
        ]
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: ScriptedServer

    def do_GET(self) -> None:
        self._note({})
        if self.path != "/props" or self.script.props is None:
            return self._send(404, "File Not Found")
        return self._send(200, self.script.props)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._note(body)
        if self.path == "/tokenize":
            bos = [1] if body.get("add_special") else []
            return self._send(200, {"tokens": bos + [ord(char) for char in body["content"]]})
        if self.script.failure:
            return self._send(*self.script.failure)
        return self._complete(body)

    def _complete(self, body: dict[str, Any]) -> None:
        self.script.enter()
        try:
            time.sleep(self.script.delay)
            try:
                result = self.script.complete(body)
            except RefusedError as refused:
                return self._send(500, {"detail": str(refused)})
            return self._stream(result) if body.get("stream") else self._send(200, result)
        except (BrokenPipeError, ConnectionResetError):
            self.script.closed_early.set()
        finally:
            self.script.leave()

    def _note(self, body: dict[str, Any]) -> None:
        headers = {name.lower(): text for name, text in self.headers.items()}
        self.script.seen.append(Seen(self.path, body, headers))

    def _send(self, status: int, answer: Any) -> None:
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self._send_cookie()
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, result: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self._send_cookie()
        self.end_headers()
        text = result["content"]
        probs = result.pop("completion_probabilities", None)
        for start in range(0, len(text), CHUNK_CHARS):
            end = start + CHUNK_CHARS
            chunk = {"content": text[start:end], "slot_id": result["slot_id"], "stop": False}
            self._event(chunk | ({"completion_probabilities": probs[start:end]} if probs else {}))
            time.sleep(self.script.delay)
        self._event({**result, "content": ""})

    def _event(self, item: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(item)}\n\n".encode())
        self.wfile.flush()

    def _send_cookie(self) -> None:
        if "SERVERID" not in (self.headers.get("Cookie") or ""):
            self.send_header("Set-Cookie", self.script.new_cookie())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """A server on a free port of 127.0.0.1, for as long as the `with` lasts."""
    script = ScriptedServer()
    handler = type("Handler", (_Handler,), {"script": script})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    script.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
