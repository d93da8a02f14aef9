"""`make demo`: the examples answer prompts, in this process and over HTTP, and are measured.

Run: python examples/demo.py
Each program runs as it is; a LangChain callback notes the numbers of every answer it gets. The
server is `libertai-engine serve demo` on a free port of this machine, stopped in the end whatever
happens. Exit code 1 if a program failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult
from langchain_core.tracers.context import register_configure_hook

from libertai_llm import Client

HERE = Path(__file__).parent
API_BASE = "LIBERTAI_API_BASE"
IN_PROCESS, HTTP = "in-process", "HTTP"
PROGRAMS = ("streaming.py", "async_calls.py", "sessions.py")
SEED_PROGRAMS = {"curl.sh": "sh", "index.js": "node", "program.py": sys.executable}
NEEDED_TOOLS = {"curl.sh": "curl", "index.js": "node"}
START_SECONDS = 60
STOP_SECONDS = 15
PROGRAM_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """The numbers of one answer; None where a program does not tell."""

    tokens: int
    milliseconds: float | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None

    def __str__(self) -> str:
        text = f"{self.tokens} tokens"
        if self.prompt_tokens is None:
            return text
        text += f" at {speed([self])}/s; "
        return text + f"{self.cached_tokens} of {self.prompt_tokens} prompt tokens from the cache"


def speed(answers: list[Answer]) -> str:
    """Tokens a second over several answers; "-" if nothing was measured."""
    # The clock starts at the first token, so one token alone says nothing.
    timed = [each for each in answers if each.milliseconds and each.tokens > 1]
    milliseconds = sum(each.milliseconds or 0 for each in timed)
    return f"{1e3 * sum(each.tokens for each in timed) / milliseconds:.0f}" if timed else "-"


@dataclass(slots=True)
class Outcome:
    """What came of one program in one mode."""

    program: str
    mode: str
    answers: list[Answer] = field(default_factory=list)
    failure: str = ""

    def row(self) -> tuple[str, ...]:
        """Cells of the table in the end."""
        cached = [each.cached_tokens for each in self.answers if each.cached_tokens is not None]
        return (
            self.program,
            self.mode,
            self.failure or str(sum(each.tokens for each in self.answers)),
            speed(self.answers),
            str(sum(cached)) if cached else "-",
        )


class Watcher(BaseCallbackHandler):
    """Notes the numbers of every answer that any LangChain class gives while it is installed."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        """Called by LangChain after each answer."""
        for generation in (each for several in response.generations for each in several):
            message = getattr(generation, "message", None)
            info = message.response_metadata if message else generation.generation_info or {}
            usage = message.usage_metadata if message else info["usage_metadata"]
            self.answers.append(
                Answer(
                    tokens=usage["output_tokens"],
                    milliseconds=info["timings"]["predicted_ms"],
                    prompt_tokens=usage["input_tokens"],
                    cached_tokens=usage["input_token_details"]["cache_read"],
                )
            )


WATCHER: ContextVar[Watcher | None] = ContextVar("watcher", default=None)
register_configure_hook(WATCHER, inheritable=True)


def say(text: str) -> None:
    """A line of our own, set apart from what the programs print."""
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def run_program(name: str, mode: str) -> Outcome:
    """Run one of our Python examples in this process, watched."""
    say(f"{name} ({mode})")
    outcome, watcher = Outcome(name, mode), Watcher()
    outcome.answers = watcher.answers
    token = WATCHER.set(watcher)
    try:
        runpy.run_path(str(HERE / name), run_name="__main__")
    except Exception as error:
        traceback.print_exc()
        outcome.failure = f"failed: {type(error).__name__}"
    finally:
        WATCHER.reset(token)
    if not outcome.failure and not sum(each.tokens for each in watcher.answers):
        outcome.failure = "failed: no answer"
    print(*(f"  [{each}]" for each in watcher.answers), sep="\n", flush=True)
    return outcome


def run_seed_program(name: str, base_url: str) -> Outcome | None:
    """Run a program of the documentation page as its users do; None if a tool is missing."""
    say(f"seed/{name} ({HTTP})")
    tool = NEEDED_TOOLS.get(name)
    if tool and not shutil.which(tool):
        print(f"{tool} is not installed on this machine: left out")
        return None
    outcome = Outcome(f"seed/{name}", HTTP)
    done = subprocess.run(
        [SEED_PROGRAMS[name], str(HERE / "seed" / name)],
        env={**os.environ, API_BASE: base_url},
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
        check=False,
    )
    text = read_curl(done.stdout, outcome) if name == "curl.sh" else done.stdout.strip()
    if done.returncode or not text or text in ("None", "undefined"):
        print(done.stderr, file=sys.stderr)
        outcome.failure = f"failed: exit code {done.returncode}"
        return outcome
    if not outcome.answers:  # the program prints text only
        outcome.answers.append(Answer(tokens=count_tokens(text, base_url)))
    print(f"{text}\n  [{outcome.answers[0]}]", flush=True)
    return outcome


def read_curl(printed: str, outcome: Outcome) -> str:
    """The text in the JSON object that curl printed; its numbers go into the outcome."""
    try:
        reply = json.loads(printed)
        timings = reply["timings"]
        outcome.answers.append(
            Answer(
                reply["tokens_predicted"],
                timings["predicted_ms"],
                reply["tokens_evaluated"],
                timings["cache_n"],
            )
        )
        return str(reply["content"]).strip()
    except (ValueError, KeyError):
        return ""


def count_tokens(text: str, base_url: str) -> int:
    """Number of tokens of a text, by the server's own count."""
    with Client(base_url) as client:
        return len(client.tokenize(text))


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The demo model served on a free port of this machine; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "libertai_engine", "serve", "demo", "--port", str(port)]
    say(f"libertai-engine serve demo --port {port}")
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            if not is_healthy(url, server):
                log.seek(0)
                raise RuntimeError(f"the server did not get ready:\n{log.read()}")
            print(f"listening on {url}", flush=True)
            yield url
        finally:
            stop(server)


def is_healthy(url: str, server: subprocess.Popen[bytes]) -> bool:
    """Ask `/health` until it says ok; False if the server ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(requests.RequestException):  # it does not listen yet, or is busy
            if requests.get(f"{url}/health", timeout=2).status_code == 200:
                return True
        time.sleep(0.1)
    return False


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server politely, or else at once."""
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def demo_in_process() -> list[Outcome]:
    """The examples on the bundled engine in this process, where calls go without an address."""
    os.environ.pop(API_BASE, None)
    say("loading the bundled model into this process")
    with Client(engine="demo") as client, warnings.catch_warnings():
        # As long as this client is open, all programs share its engine.
        props = client.props()
        print(f"{props.model}: {props.total_slots} slots of {props.context_size} tokens each")
        warnings.filterwarnings("ignore", message="neither `base_url` nor `engine`")
        return [run_program(name, IN_PROCESS) for name in (*PROGRAMS, "in_process.py")]


def demo_over_http() -> list[Outcome]:
    """The same examples, and the documentation page's programs, on the engine behind HTTP."""
    with serving() as url:
        os.environ[API_BASE] = url
        outcomes = [run_program(name, HTTP) for name in (*PROGRAMS, "seed/langchain_program.py")]
        seed = (run_seed_program(name, url) for name in SEED_PROGRAMS)
        return outcomes + [outcome for outcome in seed if outcome]


def attempt(demo: Callable[[], list[Outcome]], mode: str) -> list[Outcome]:
    """Run one half of the demo; if it cannot even begin, that is an outcome too."""
    try:
        return demo()
    except Exception as error:
        traceback.print_exc()
        return [Outcome("everything", mode, failure=f"failed: {type(error).__name__}")]


def print_table(outcomes: list[Outcome]) -> None:
    """One line a program."""
    head = ("program", "mode", "tokens", "tokens/s", "cached tokens")
    rows = [head, *(outcome.row() for outcome in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def main() -> int:
    """Both halves, then the table."""
    # SIGTERM shall end the server too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # As the command `libertai-engine` does: torch's threads leave the cores while they wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    start = time.monotonic()
    outcomes = attempt(demo_in_process, IN_PROCESS) + attempt(demo_over_http, HTTP)
    say(f"done in {time.monotonic() - start:.0f} s")
    print_table(outcomes)
    return int(any(outcome.failure for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
