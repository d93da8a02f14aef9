"""The examples: each runs as its docstring says, against a real server, and answers something."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

EXAMPLES = Path(__file__).parent.parent / "examples"
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "demo.py")
MAX_LINES = 40
TIMEOUT = 200

needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")


def run(command: str, program: str, base_url: str | None) -> str:
    """What a program prints, run as a newcomer runs it."""
    env = {name: value for name, value in os.environ.items() if name != "LIBERTAI_API_BASE"}
    env |= {"LIBERTAI_API_BASE": base_url} if base_url else {}
    env["OMP_NUM_THREADS"] = "1"  # a small model on a busy machine only waits for its other threads
    with subprocess.Popen(
        [command, str(EXAMPLES / program)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            printed, errors = process.communicate(timeout=TIMEOUT)
        except BaseException:
            process.terminate()  # not killed: it may have a server to end
            raise
    assert process.returncode == 0, errors
    return printed


@pytest.fixture(scope="module")
def demo() -> dict[str, Any]:
    """The names of `demo.py`, without running it."""
    return runpy.run_path(str(EXAMPLES / "demo.py"), run_name="demo")


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_is_short_and_says_how_to_run_it(name: str) -> None:
    """One file to read at a glance."""
    text = (EXAMPLES / name).read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert f"\nRun: python examples/{name}\n" in text.split('"""')[1]


def test_streaming_gives_both_answers(demo_server: str) -> None:
    """The chat class and the LLM class each print more than the question."""
    chat, text = run(sys.executable, "streaming.py", demo_server).split("  finish reason: ")
    assert len(chat.splitlines()) == 2 and chat.splitlines()[1].strip()
    assert text.startswith(("stop\n", "length\n"))
    assert text.partition("10 simple steps:")[2].strip()


def test_async_answers_every_question(demo_server: str) -> None:
    """Three at once and one more; each question is followed by an answer."""
    printed = run(sys.executable, "async_calls.py", demo_server)
    parts = re.split(r"^> ", printed, flags=re.MULTILINE)[1:]
    assert len(parts) == 4
    assert all(part.partition("\n")[2].strip() for part in parts)


def test_sessions_evaluate_only_what_is_new(demo_server: str) -> None:
    """From the second turn on the cache holds all that the turn before had as its prompt."""
    printed = run(sys.executable, "sessions.py", demo_server)
    found = re.findall(r"^  (\d+) of (\d+) prompt tokens", printed, flags=re.MULTILINE)
    turns = [(int(cached), int(total)) for cached, total in found]
    assert len(turns) == 6
    for conversation in (turns[0::2], turns[1::2]):
        for (_, before), (cached, total) in zip(conversation, conversation[1:], strict=False):
            assert before <= cached < total


def test_an_agent_answers_over_several_turns(demo_server: str) -> None:
    """Each question is followed by an answer, or by calls and their results."""
    printed = run(sys.executable, "agent.py", demo_server)
    turns = printed.split("human> ")[1:]
    assert len(turns) == 2
    assert all(re.search(r"^ai> \S", turn, flags=re.MULTILINE) for turn in turns)
    assert "tool> 39" in turns[0] and "tool> It is sunny in Rome." in turns[1]


def test_a_graph_keeps_its_threads_apart(demo_server: str) -> None:
    """The second turn of a thread reads the first from the cache."""
    printed = run(sys.executable, "graph.py", demo_server)
    found = re.findall(r"^  (\d+) of (\d+) from the cache", printed, flags=re.MULTILINE)
    (_, first), _, (cached, total) = [(int(cached), int(total)) for cached, total in found]
    assert first <= cached < total


def test_retrieval_finds_the_passage_and_answers(demo_server: str) -> None:
    """Question, passage, answer."""
    printed = run(sys.executable, "rag.py", demo_server)
    assert "A ticket costs 12 euros." in printed and "is led by Eva Brown" in printed
    first, second = re.findall(r"^= (.*)", printed, flags=re.MULTILINE)
    assert "12" in first and "1984" in second


def test_history_is_remembered(demo_server: str) -> None:
    """By LangChain, and by the server's cache."""
    printed = run(sys.executable, "history.py", demo_server)
    cached = [int(each) for each in re.findall(r"(\d+) tokens from the cache", printed)]
    assert cached[0] < cached[1] and printed.endswith("4 messages are kept\n")


def test_a_long_conversation_is_summarised(demo_server: str) -> None:
    """It is shorter in the end than what was said."""
    printed = run(sys.executable, "summarize.py", demo_server)
    counts = [int(each) for each in re.findall(r"(\d+) messages,", printed)]
    assert len(counts) == 4 and counts[:2] == [2, 4] and counts[-1] < 8


def test_a_batch_gives_a_hundred_objects(demo_server: str) -> None:
    """All of them parse, and those shown say what their texts say."""
    printed = run(sys.executable, "batch.py", demo_server)
    shown = r"(\w+) is (\d+) years old. Person\(name='(\w+)', age=(\d+)\)"
    found = re.findall(shown, printed)
    assert len(found) == 4 and all(each[:2] == each[2:] for each in found)
    assert re.search(r"^100 objects in ", printed, flags=re.MULTILINE)


def test_a_fallback_answers(demo_server: str) -> None:
    """Whole and streamed, though nobody is at the first address."""
    printed = run(sys.executable, "fallbacks.py", demo_server)
    assert "LibertaiConnectError" in printed
    assert re.search(r"^the chain: \S.*\n\S", printed, flags=re.MULTILINE)


def test_answers_are_objects(demo_server: str) -> None:
    """Of the class, of a dict that grows, of a plain LLM."""
    printed = run(sys.executable, "structured.py", demo_server)
    assert len(re.findall(r"^name=.* age=\d+$", printed, flags=re.MULTILINE)) >= 2
    assert len(re.findall(r"^\{'name': ", printed, flags=re.MULTILINE)) > 1


def test_grammars_hold_answers(demo_server: str) -> None:
    """The schema's object, the own grammar's words, and what no grammar can express."""
    person, verdict, refused = run(sys.executable, "grammars.py", demo_server).splitlines()
    assert list(ast.literal_eval(person)) == ["name", "age", "languages"]
    assert re.fullmatch(r"(yes|no), certainty ([1-9]|10)", verdict)
    assert refused.endswith("(at #/uniqueItems)")


@needs_curl
def test_seed_curl(demo_server: str) -> None:
    """The documented command gets the documented JSON."""
    reply = json.loads(run("sh", "seed/curl.sh", demo_server))
    assert reply["content"].strip() and reply["stop"] is True
    assert 0 < reply["tokens_predicted"] <= 128 and reply["slot_id"] >= 0


@needs_node
def test_seed_node(demo_server: str) -> None:
    """The documented Node.js program prints the answer."""
    printed = run("node", "seed/index.js", demo_server).strip()
    assert printed and printed != "undefined"


@pytest.mark.parametrize("name", ["seed/program.py", "seed/langchain_program.py"])
def test_seed_python(name: str, demo_server: str) -> None:
    """The documented Python programs print the answer."""
    printed = run(sys.executable, name, demo_server).strip()
    assert printed and printed != "None"


@pytest.fixture(scope="module")
def demo_output() -> str:
    """What `make demo` prints."""
    return run(sys.executable, "demo.py", None)


def test_the_whole_demo(demo: dict[str, Any], demo_output: str) -> None:
    """Every program runs in its modes, none fails, and sessions read the cache."""
    table = demo_output.rpartition("\nprogram ")[2].splitlines()[1:]
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in table}
    wanted = {(name, mode) for name in demo["PROGRAMS"] for mode in ("in-process", "HTTP")}
    wanted |= {("in_process.py", "in-process"), ("seed/langchain_program.py", "HTTP")}
    assert wanted <= set(rows)
    assert all(int(cells[0]) > 0 for cells in rows.values())
    assert all(int(rows["sessions.py", mode][2]) > 0 for mode in ("in-process", "HTTP"))
    assert "failed" not in demo_output


def test_in_process_needs_no_server(demo_output: str) -> None:
    """The example runs before the demo's server does: the engine, its slots, and two answers."""
    before = demo_output.partition("== libertai-engine serve")[0]
    printed = before.partition("== in_process.py (in-process)\n")[2]
    assert re.match(r"\S+: \d+ slots of \d+ tokens each\n> Who are you\?\n\S", printed)
    assert printed.partition("Assistant:")[2].strip()


def test_a_failing_program_fails_the_demo(demo: dict[str, Any], tmp_path: Path) -> None:
    """An exception is an outcome that the exit code counts, and so is silence."""
    for source, failure in (("1 / 0", "failed: ZeroDivisionError"), ("", "failed: no answer")):
        (tmp_path / "program.py").write_text(source)
        assert demo["run_program"](str(tmp_path / "program.py"), "HTTP").failure == failure


def test_a_demo_that_is_told_to_end_ends_its_server() -> None:
    """SIGTERM in the middle of it leaves no server behind."""
    program = [sys.executable, str(EXAMPLES / "demo.py")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        url = next(line.split()[-1] for line in lines if line.startswith("listening on "))
        assert requests.get(f"{url}/health", timeout=30).json() == {"status": "ok"}
        process.terminate()
        process.communicate(timeout=120)
    # NOTE: 0 if the signal came inside a callback, where Python drops what a handler raises: the
    # demo then goes on to its own end.
    assert process.returncode in (0, 128 + signal.SIGTERM)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/health", timeout=30)


def test_search_by_meaning_finds_what_is_meant() -> None:
    """In this process, with the model that is a package."""
    printed = run(sys.executable, "embeddings.py", None)
    assert [line.strip().split(" ")[0] for line in printed.splitlines()[1::2]] == [
        "Bread",
        "Bananas",
        "The",
    ]
