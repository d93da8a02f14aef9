"""The LlamaIndex examples: each runs as its docstring says, against a real server.

MiniLM embeds in each program's own process; the demo model answers from one server for all.
"""

from __future__ import annotations

import re
import sys

import pytest

from tests.test_examples import EXAMPLES, run

FOLDER = EXAMPLES / "llamaindex"
PROGRAMS = sorted(path.name for path in FOLDER.glob("*.py"))
MAX_LINES = 65  # with what LlamaIndex wants to be imported and subclassed


def printed_by(program: str, base_url: str) -> str:
    return run(sys.executable, f"llamaindex/{program}", base_url)


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_is_short_and_says_how_to_run_it(name: str) -> None:
    """One file to read at a glance."""
    text = (FOLDER / name).read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert f"\nRun: python examples/llamaindex/{name}\n" in text.split('"""')[1]


def test_the_index_has_documents_enough(demo_server: str) -> None:
    """At least thirty sections of the project's own pages."""
    found = re.match(r"(\d+) documents of \d+ characters", printed_by("library.py", demo_server))
    assert found and int(found[1]) >= 30


def test_questions_are_answered_with_sources(demo_server: str) -> None:
    """Each with the three passages that were read, the nearest first; the right one is found."""
    answers = printed_by("query.py", demo_server).split("> ")[1:]
    assert len(answers) == 3
    for answer in answers:
        scores = [float(score) for score in re.findall(r"^  (\d\.\d\d)  \S+\.md: ", answer, re.M)]
        assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    assert "README.md: Where calls go" in answers[0]


def test_a_chat_reads_its_cache(demo_server: str) -> None:
    """A turn's prompts find what the turns before have left."""
    printed = printed_by("chat.py", demo_server)
    found = re.findall(r"^  (\d+) of (\d+) prompt tokens", printed, re.M)
    cached = [int(each) for each, _ in found]
    assert printed.count("> ") == 3 and len(found) >= 3
    assert all(each > 0 for each in cached[1:])


def test_a_router_chooses(demo_server: str) -> None:
    """One of the two engines, for each question."""
    printed = printed_by("route.py", demo_server)
    assert len(re.findall(r"^  about the (?:library|recordings)$", printed, re.M)) == 2


def test_agents_call_their_tools(demo_server: str) -> None:
    """Three agents answer; the one that has to call does."""
    printed = printed_by("agents.py", demo_server)
    kinds = re.findall(r"^(\w+)> ", printed, re.M)
    assert kinds == ["FunctionAgent", "ReActAgent", "AgentWorkflow"]
    first = printed.partition("ReActAgent>")[0]
    assert re.search(r"^  add\(\{'a': \d+, 'b': \d+\}\) = \d+$", first, re.M)


def test_texts_become_objects(demo_server: str) -> None:
    """Of the class, whole and as they come."""
    printed = printed_by("structured.py", demo_server)
    pattern = r"Person\(name='.{0,24}', age=\d+, pet='(?:cat|dog|none)'\)"
    assert len(re.findall(pattern, printed)) == 2
    assert printed.count("\nname=") > 3


def test_an_answer_is_streamed(demo_server: str) -> None:
    """From a chat and from a query engine."""
    chat, _, query = printed_by("stream.py", demo_server).partition("\n> On which")
    assert re.search(r"\d+ tokens in, \d+ out", chat)
    assert query.partition("closed?\n")[2].strip()


def test_twenty_questions_are_answered_at_once(demo_server: str) -> None:
    """All of them."""
    printed = printed_by("gather.py", demo_server)
    assert re.search(r"^20 answers in \d+\.\d s", printed, re.M)
