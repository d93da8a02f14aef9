"""The command line: exit codes, messages, a real terminal, signals."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from libertai_engine.__main__ import main, parse
from tests.engine.serving import parse_reply, read_all, request_bytes, wait_until

COMMAND = [sys.executable, "-m", "libertai_engine"]
GREEDY = ["--temp", "0", "-t", "1"]
CONTROL_C, CONTROL_D = b"\x03", b"\x04"


def feed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_complete_keeps_to_a_grammar(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the command line, in a file, or as a JSON schema."""
    (tmp_path / "x.gbnf").write_text('root ::= "yes" | "no"')
    for flags, right in (
        (["--grammar", 'root ::= "a" [0-9]'], {f"a{digit}" for digit in range(10)}),
        (["--grammar-file", str(tmp_path / "x.gbnf")], {"yes", "no"}),
        (["--json-schema", '{"enum": [1, null]}'], {"1", "null"}),
    ):
        assert main(["complete", str(tiny_model), "Once", *flags]) == 0
        assert capsys.readouterr().out.strip() in right


def test_complete_is_reproducible(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompt as argument or on stdin, the same text on stdout and nothing else; figures on -v."""
    flags = [*GREEDY, "-n", "8"]
    assert main(["complete", str(tiny_model), "Once upon", *flags]) == 0
    first = capsys.readouterr()
    assert first.out.endswith("\n") and len(first.out) > 1
    assert first.err == ""
    feed(monkeypatch, "Once upon\n")
    assert main(["complete", str(tiny_model), *flags, "-v"]) == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert re.search(r"\[8 tokens, [\d.]+ tokens/s, 0 of \d+ prompt tokens", second.err)


def test_chat_keeps_the_conversation_in_its_slot(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second turn finds the first one cached; /reset forgets it; too long a text is one line
    of error and the chat goes on."""
    feed(
        monkeypatch, f"hi\n\nagain\n/reset\nhi\n/help\n{'long ' * 600}\nagain\n/exit\nnever read\n"
    )
    assert main(["chat", str(tiny_model), "--system", "be kind", *GREEDY, "-n", "6", "-v"]) == 0
    output = capsys.readouterr()
    turns = re.findall(r"(\d+) of (\d+) prompt tokens", output.err)
    cached, prompt = ([int(turn[place]) for turn in turns] for place in (0, 1))
    assert len(turns) == 4
    assert cached[0] == 0 and cached[1] >= prompt[0] - 1, "the first turn is reused"
    assert prompt[2:] == prompt[:2], "a reset and a failed turn leave no trace"
    assert output.err.count("error:") == 1 and "context size" in output.err
    assert "Ctrl-D" in output.err
    half = output.out[: len(output.out) // 2]
    assert half.endswith("\n") and output.out == half + half


def test_info_names_what_a_model_is(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two layers of two heads of 12 float32 for keys and values: 384 bytes a token."""
    assert main(["info", str(tiny_model), "--kernels", "torch"]) == 0
    table = dict(
        re.split(r" {2,}", line, maxsplit=1) for line in capsys.readouterr().out.splitlines()
    )
    assert table["architecture"] == "LlamaForCausalLM"
    assert table["context"] == "512 tokens"
    assert table["vocabulary"] == "400 tokens"
    assert table["KV cache"] == "384 bytes a token, float32"
    assert table["end of answer"] == "2, 399"
    assert table["small steps"] == "transformers (torch's kernels were asked for)"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["serve", "--prot", "1"], "--prot"),
        (["serve", "--por", "1"], "--por"),
        (["serve", "--port", "99999"], "`port`"),
        (["serve", "--timeout", "0"], "`request_timeout`"),
        (["serve", "-np", "0"], "argument -np/--parallel: `num_slots`"),
        (["serve", "-c", "1"], "argument -c/--ctx-size: `context_size`"),
        (["serve", "-t", "0"], "argument -t/--threads: `threads`"),
        (["serve", "--draft-max", "-1"], "argument --draft-max: `max_draft`"),
        (["info", "-c", "9"], "unrecognized arguments: -c"),
        (["serve", "--prefill-ms", "-1"], "`prefill_ms`"),
        (["serve", "--cpus", "3-1"], "'3-1' is no list"),
        (["serve", "a", "-m", "b"], "twice"),
        (["serve", "--cache-ram", "-2"], "-1 or more"),
        (["serve", "--api-key-file", "/nowhere"], "cannot read"),
        (["serve", "--api-key", ""], "--api-key"),
        (["serve", "--api-key", " , "], "--api-key"),
        (["serve", "--slot-save-path", "/nowhere"], "no folder"),
        (["complete"], "MODEL"),
        (["complete", "demo", "a", "--top-k", "x"], "--top-k"),
        (["complete", "demo", "a", "--repeat-penalty", "0"], "--repeat-penalty: `repeat_penalty`"),
        (["complete", "demo", "a", "-n", "-2"], "-n"),
        (["complete", "demo", "a", "--json-schema", "{"], "--json-schema"),
        (["complete", "demo", "a", "--json-schema", "[" * 100_000], "--json-schema"),
        (["complete", "demo", "a", "--grammar-file", "/nowhere"], "--grammar-file"),
        (["complete", "demo", "a", "--grammar", "x", "-j", "{}"], "not allowed"),
        (["dance"], "dance"),
        ([], "COMMAND"),
    ],
)
def test_wrong_arguments(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and a last line that names what is wrong; nothing is loaded for it."""
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cpus", "60000"], "argument --cpus: `cpus` must be some of"),
        (["--device", "tpu"], "argument --device: `device` must be"),
        (["--grammar", "x"], "argument --grammar: failed to parse grammar"),
        (["--grammar-file", __file__], "argument --grammar-file: failed to parse grammar"),
        (["-j", '{"type": "x"}'], "argument -j/--json-schema: "),
    ],
)
def test_flags_that_only_a_machine_or_a_model_can_refuse(
    flags: list[str], message: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are as wrong as those which nobody could have."""
    with pytest.raises(SystemExit) as caught:
        main(["complete", str(tiny_model), "a", *flags])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["complete", "/nowhere", "a"], "/nowhere"),
        (["complete", "demo", ""], "the prompt is empty"),
        (["chat", "/nowhere"], "/nowhere"),
        (["info", "/nowhere"], "/nowhere"),
        (["serve", "/nowhere", "--port", "0"], "/nowhere"),
    ],
)
def test_failures_are_one_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, the reason on stderr, no traceback."""
    assert main(argv) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("libertai-engine: error: ")
    assert message in lines[0]


@pytest.mark.parametrize("argv", [["serve", "demo", "--port", "0"], ["complete", "demo", "a"]])
def test_without_the_engines_packages(argv: list[str]) -> None:
    """The plain package has the command, but not what it needs: one line says what to install."""
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'starlette', 'uvicorn'): sys.modules[name] = None\n"
        "from libertai_engine.__main__ import main\n"
        f"sys.exit(main({argv!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("libertai-engine: error: ")
    assert line.endswith("pip install 'libertai-llm[engine]'")


def test_a_port_in_use_is_said_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The model does not even have to exist."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "/nowhere", "--port", str(port)]) == 1
    error = capsys.readouterr().err
    assert error == (
        f"libertai-engine: error: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
    )


class Terminal:
    """A program on a terminal of its own. `seen` is what it has shown so far."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self.process = process
        self.seen = b""

    def type(self, keys: bytes) -> None:
        self.seen = b""
        os.write(self._master, keys)

    def expect(self, text: bytes, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} not in {self.seen[-500:]!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                self.seen += os.read(self._master, 65536)

    def insist(self, keys: bytes, text: bytes) -> None:
        """Type `keys`, again and again, until `text` shows.

        NOTE: what is typed while readline takes over the terminal is thrown away.
        """
        for _ in range(12):
            self.type(keys)
            with contextlib.suppress(AssertionError):
                return self.expect(text, timeout=5)
        raise AssertionError(f"{text!r} not in {self.seen[-500:]!r}")

    def leave(self) -> int:
        """Type Ctrl-D until the program ends; returns its exit code."""
        for _ in range(60):
            self.type(CONTROL_D)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(1)
        raise AssertionError(f"still running: {self.seen[-500:]!r}")


@contextmanager
def terminal(*argv: str) -> Iterator[Terminal]:
    """Start a program whose controlling terminal we hold, so that Ctrl-C is a signal to it."""
    master, slave = os.openpty()
    # A session leader without a terminal gets the first one it opens.
    shell = ["sh", "-c", 'exec "$@" <"$TTY" >"$TTY" 2>&1', "sh"]
    environment = {**os.environ, "TTY": os.ttyname(slave), "TERM": "dumb"}
    process = subprocess.Popen([*shell, *argv], start_new_session=True, env=environment)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


def test_control_c_stops_the_answer_and_not_the_chat(long_model: Path) -> None:
    """At the prompt it drops the line; during an answer it ends it; Ctrl-D leaves with 0."""
    endless = ["--ignore-eos", "-n", "-1", *GREEDY]
    with terminal(*COMMAND, "chat", str(long_model), *endless) as screen:
        screen.expect(b"> ")
        # NOTE: Python misses a signal between prompt and reading.
        screen.insist(b"half a li", b"half a li")
        screen.insist(CONTROL_C, b"> ")
        for _ in range(2):
            screen.insist(b"hello\n", b"\n")
            time.sleep(0.3)
            screen.insist(CONTROL_C, b"\n> ")
        assert screen.leave() == 0


def test_control_c_ends_a_completion_with_130(long_model: Path) -> None:
    """After what was made so far and a line feed; nothing on stderr."""
    flags = ["--ignore-eos", *GREEDY]
    with subprocess.Popen(
        [*COMMAND, "complete", str(long_model), "Once", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.read1(1)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert rest.endswith(b"\n") and errors == b""


@contextmanager
def served(model: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`serve` in a process, and its port; not necessarily ready."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    argv = [*COMMAND, "serve", str(model), "--port", str(port), "-t", "1", *flags]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as process:
        try:
            yield process, port
        finally:
            process.kill()


def ask(port: int, request: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    client.sendall(request)
    return client


def health(port: int) -> int:
    """The status of /health; 0 before the port is open."""
    with contextlib.suppress(ConnectionError), ask(port, request_bytes("GET", "/health")) as client:
        return parse_reply(read_all(client)).status
    return 0


def long_stream(port: int, n_predict: int) -> socket.socket:
    body = {"prompt": "a", "n_predict": n_predict, "ignore_eos": True, "stream": True}
    client = ask(port, request_bytes("POST", "/completion", json.dumps(body).encode()))
    client.recv(1, socket.MSG_PEEK)
    return client


def test_serve_from_loading_to_the_last_answer(long_model: Path) -> None:
    """503 while loading, then 200; after SIGTERM the running stream ends whole while others get
    503; exit code 0; stderr says what listens where."""
    flags = ["-np", "3", "-c", "4096", "-a", "tiny", "--drain-timeout", "120"]
    with served(long_model, *flags) as (process, port):
        statuses: list[int] = []
        while statuses[-1:] != [200]:
            statuses.append(health(port))
            time.sleep(0.2)
        assert set(statuses) <= {0, 503, 200} and 503 in statuses
        with long_stream(port, 800) as client:
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: health(port) == 503, timeout=5, pause=0.1)
            last = parse_reply(read_all(client)).events[-1]
        assert (last["stop"], last["model"]) == (True, "tiny")
        assert 800 <= last["tokens_predicted"] <= 803  # to the end of a character
        assert process.wait(10) == 0
        assert process.stderr is not None
        log = process.stderr.read().decode()
    assert f"listening on http://127.0.0.1:{port}: tiny, 3 slots of 4096 tokens" in log
    assert "Traceback" not in log


def test_leaving_while_the_model_loads(long_model: Path) -> None:
    """SIGTERM needs no model: the server ends at once, with 0."""
    with served(long_model) as (process, port):
        wait_until(lambda: health(port) == 503, timeout=60, pause=0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_leave_the_cores_to_others(
    given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command asks OpenMP not to spin before torch is loaded, unless the user has a wish."""
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert main(["complete", "demo", ""]) == 1
    assert os.environ["OMP_WAIT_POLICY"] == expected


def test_flags_may_stand_between_the_other_arguments() -> None:
    """`complete MODEL --temp 0 PROMPT` means what `complete MODEL PROMPT --temp 0` means."""
    mixed = parse(["complete", "demo", "--temp", "0", "a text"])
    assert mixed.prompt == "a text" == parse(["complete", "demo", "a text", "--temp", "0"]).prompt
