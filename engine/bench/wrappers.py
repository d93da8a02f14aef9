"""What LangChain's classes cost over the clients below them: ours, ChatOpenAI's, ChatOllama's.

Run: python engine/bench/wrappers.py [--rounds N] [--write]
In: a server in another process that answers at once. Out: a table, with --write also in
docs/bench/wrappers.md. Counted is the processor time of this process, the least of all rounds, so
that other work on the machine matters little. Classes that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel

from libertai_llm import Client
from libertai_llm.langchain import ChatLibertai
from libertai_llm.prompt import ChatTemplate

PAGE = Path(__file__).parents[2] / "docs" / "bench" / "wrappers.md"
CALLS, STREAMS, CHUNKS = 100, 10, 200
QUESTION = "What is 3 plus 4?"
MESSAGES = [{"role": "user", "content": QUESTION}]


@dataclass(frozen=True, slots=True)
class Contestant:
    """A LangChain class and the client that it is made of, each called in two ways."""

    name: str
    call: Callable[[], object]
    bare_call: Callable[[], object]
    stream: Callable[[], Iterator[object]]
    bare_stream: Callable[[], Iterator[object]]


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor time in microseconds: of a call and of a chunk, with the wrapper and without."""

    name: str
    call: float
    bare_call: float
    chunk: float
    bare_chunk: float

    def cells(self) -> tuple[str, ...]:
        """Cells of the table."""
        over_call, over_chunk = self.call - self.bare_call, self.chunk - self.bare_chunk
        numbers = (self.bare_call, self.call, over_call, self.bare_chunk, self.chunk, over_chunk)
        return (self.name, *(f"{number:.0f}" for number in numbers))


def ours(url: str) -> Contestant:
    """`ChatLibertai` over `Client`."""
    client = Client(url)
    prompt = ChatTemplate().render(MESSAGES)
    chat = ChatLibertai(base_url=url, chat_template="chatml")
    return Contestant(
        f"ChatLibertai {version('libertai-llm')}",
        lambda: chat.invoke(QUESTION),
        lambda: client.complete(prompt),
        lambda: chat.stream(QUESTION),
        lambda: client.stream(prompt),
    )


def openais(url: str) -> Contestant:
    """`ChatOpenAI` over `openai.OpenAI`."""
    import openai
    from langchain_openai import ChatOpenAI

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    chat: BaseChatModel = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="demo")
    given: Any = {"model": "demo", "messages": MESSAGES}
    return Contestant(
        f"ChatOpenAI {version('langchain-openai')}",
        lambda: chat.invoke(QUESTION),
        lambda: client.chat.completions.create(**given),
        lambda: chat.stream(QUESTION),
        lambda: client.chat.completions.create(**given, stream=True),
    )


def ollamas(url: str) -> Contestant:
    """`ChatOllama` over `ollama.Client`."""
    import ollama
    from langchain_ollama import ChatOllama

    client = ollama.Client(host=url)
    chat: BaseChatModel = ChatOllama(base_url=url, model="demo")
    return Contestant(
        f"ChatOllama {version('langchain-ollama')}",
        lambda: chat.invoke(QUESTION),
        # NOTE: the class streams inside of `invoke` as well.
        lambda: list(client.chat("demo", MESSAGES, stream=True)),
        lambda: chat.stream(QUESTION),
        lambda: client.chat("demo", MESSAGES, stream=True),
    )


MAKERS = {"libertai_llm": ours, "langchain_openai": openais, "langchain_ollama": ollamas}


def microseconds(work: Callable[[], object], count: int) -> float:
    """Processor time of each of `count` times of work."""
    begun = time.process_time_ns()
    for _ in range(count):
        work()
    return (time.process_time_ns() - begun) / count / 1000


def measure(each: Contestant) -> Cost:
    """One round."""

    def drained(stream: Callable[[], Iterator[object]]) -> float:
        return microseconds(lambda: sum(1 for _ in stream()), STREAMS) / CHUNKS

    return Cost(
        each.name,
        microseconds(each.call, CALLS),
        microseconds(each.bare_call, CALLS),
        drained(each.stream),
        drained(each.bare_stream),
    )


def least(rounds: list[Cost]) -> Cost:
    """The least of each number."""
    return Cost(
        rounds[0].name,
        *(
            min(getattr(cost, field) for cost in rounds)
            for field in ("call", "bare_call", "chunk", "bare_chunk")
        ),
    )


def table(costs: list[Cost]) -> str:
    """The result as Markdown."""
    head = ("class", "client/call", "class/call", "more", "client/chunk", "class/chunk", "more")
    rows = [head, tuple("---" for _ in head), *(cost.cells() for cost in costs)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


class Immediate(BaseHTTPRequestHandler):
    """Answers every POST with what was made before, in the form of its route."""

    protocol_version = "HTTP/1.1"
    # NOTE: head and body are two writes, and the second would wait 40 ms for the first to be seen.
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_stream = body.get("stream", self.path == "/api/chat")
        kind, answer = ANSWERS[self.path, bool(is_stream)]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


def _events(items: list[dict[str, Any]], end: str = "") -> bytes:
    return ("".join(f"data: {json.dumps(item)}\n\n" for item in items) + end).encode()


def _llama(is_stream: bool) -> tuple[str, bytes]:
    timings = {"prompt_n": 9, "prompt_ms": 1.0, "predicted_n": CHUNKS, "predicted_ms": 1.0}
    last = {
        "content": "" if is_stream else "x " * CHUNKS,
        "model": "demo",
        "slot_id": 0,
        "stop": True,
        "stopped_eos": True,
        "tokens_evaluated": 9,
        "tokens_predicted": CHUNKS,
        "timings": timings,
    }
    if not is_stream:
        return "application/json", json.dumps(last).encode()
    chunk = {"content": "x ", "slot_id": 0, "stop": False}
    return "text/event-stream", _events([*[chunk] * CHUNKS, last])


def _openai(is_stream: bool) -> tuple[str, bytes]:
    usage = {"prompt_tokens": 9, "completion_tokens": CHUNKS, "total_tokens": 9 + CHUNKS}
    common = {"id": "1", "created": 1, "model": "demo"}
    if not is_stream:
        message = {"role": "assistant", "content": "x " * CHUNKS}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = {**common, "object": "chat.completion", "choices": [choice], "usage": usage}
        return "application/json", json.dumps(whole).encode()

    def chunk(delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {**common, "object": "chat.completion.chunk", "choices": [choice]}

    chunks = [chunk({"content": "x "}, None)] * CHUNKS
    return "text/event-stream", _events([*chunks, chunk({}, "stop")], "data: [DONE]\n\n")


def _ollama() -> tuple[str, bytes]:
    common = {"model": "demo", "created_at": "2026-01-01T00:00:00Z"}
    chunk = {**common, "message": {"role": "assistant", "content": "x "}, "done": False}
    last = {
        **common,
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 9,
        "eval_count": CHUNKS,
    }
    lines = "".join(f"{json.dumps(item)}\n" for item in [*[chunk] * CHUNKS, last])
    return "application/x-ndjson", lines.encode()


ANSWERS = {
    ("/completion", False): _llama(False),
    ("/completion", True): _llama(True),
    ("/v1/chat/completions", False): _openai(False),
    ("/v1/chat/completions", True): _openai(True),
    ("/api/chat", True): _ollama(),
}


def serve(told: Connection) -> None:
    """The other process: tell the port, then answer until it is ended."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Immediate)
    told.send(server.server_port)
    server.serve_forever()


@contextmanager
def served() -> Iterator[str]:
    """The address of a server for as long as the `with` lasts."""
    receiving, telling = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(telling,))
    process.start()
    try:
        yield f"http://127.0.0.1:{receiving.recv()}"
    finally:
        process.terminate()
        process.join()


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    asked = parser.parse_args()
    with served() as url:
        contestants = [make(url) for name, make in MAKERS.items() if find_spec(name)]
        rounds = [[measure(each) for each in contestants] for _ in range(asked.rounds + 1)][1:]
    text = table([least(list(costs)) for costs in zip(*rounds, strict=True)])
    print(text)
    if asked.write:
        PAGE.write_text(
            "# What LangChain's classes cost\n\nMicroseconds of processor time for a call of "
            f"{CHUNKS} tokens and for a streamed chunk, least of {asked.rounds} rounds, against a "
            f'server that answers at once; Python {platform.python_version()}, one core. "More" is '
            "what the class adds to the client below it. By `engine/bench/wrappers.py`.\n\n"
            f"{text}\n"
        )


if __name__ == "__main__":
    main()
