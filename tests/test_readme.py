"""The READMEs: every program in them runs, every table says what the code does."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from starlette.routing import Route

from libertai_engine.config import ServerConfig
from libertai_engine.http.lifecycle import Lifecycle
from libertai_engine.server import build_app
from libertai_engine.wire.fields import SAMPLING
from libertai_llm.params import CompletionParams
from libertai_llm.replies import engine_error
from tests.test_imports import LAYERS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ENGINE_README = (ROOT / "engine" / "README.md").read_text()
SERVER = "http://127.0.0.1:8080"  # what the README calls its server


def blocks(language: str, text: str = README) -> list[str]:
    """The code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def first_cells(heading: str) -> set[str]:
    """Code words in the first column of the table below a heading."""
    _, found, section = README.partition(f"\n## {heading}\n")
    assert found, heading
    section = section.partition("\n## ")[0]
    cells = re.findall(r"^\| (.*?) \|", section, flags=re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize("source", blocks("python"), ids=lambda source: source.split("\n")[-2][:40])
def test_python_blocks_run(
    source: str, demo_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each block is a whole program, and prints something."""
    program = compile(source.replace(SERVER, demo_server), "README.md", "exec", dont_inherit=True)
    exec(program, {"__name__": "readme"})
    assert capsys.readouterr().out.strip()


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_block_runs(demo_server: str) -> None:
    """The first thing a newcomer types gets an answer."""
    (command,) = [block for block in blocks("sh") if block.startswith("curl")]
    done = subprocess.run(
        ["sh", "-c", command.replace(SERVER, demo_server)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"content":' in done.stdout and '"error"' not in done.stdout


def test_make_and_install_lines_name_what_exists() -> None:
    """Targets of the Makefile, extras of the distribution."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    targets = {shlex.split(line)[1] for line in lines if line.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text()
    assert targets >= {"demo", "test"}
    assert all(f"\n{target}: " in makefile for target in targets)
    extras = {
        extra
        for each in re.findall(r"libertai-llm\[([a-z,-]+)\]", README)
        for extra in each.split(",")
    }
    project = (ROOT / "pyproject.toml").read_text()
    assert extras and all(f"\n{extra} = [" in project for extra in extras)


def test_option_table_is_complete() -> None:
    """Every sampler setting that the engine reads is explained, and nothing that nobody knows."""
    explained = first_cells("Options of `/completion`")
    assert set(SAMPLING) <= explained
    client_names = {each.metadata.get("wire") or each.name for each in fields(CompletionParams)}
    assert explained <= client_names | {"prompt", "stream", "id_slot", "context_shift"}


def test_flag_table_is_that_of_the_command() -> None:
    """Every flag of `libertai-engine serve` is explained, and no other."""
    command = [sys.executable, "-m", "libertai_engine", "serve", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", shown)) - {"--help"}
    table = {word for word in first_cells("The server") if word.startswith("--")}
    assert table == flags


def test_route_table_is_that_of_the_server() -> None:
    """Every route is explained, and no other."""
    routes = build_app(Lifecycle(), ServerConfig()).routes
    paths = {re.sub(r":\w+", "", route.path) for route in routes if isinstance(route, Route)}
    words = {word.removeprefix("POST ").removeprefix("GET ") for word in first_cells("The server")}
    table = {word.replace("{id}", "{slot}") for word in words if word.startswith("/")}
    assert table == paths


def test_error_table_is_that_of_the_client() -> None:
    """A status raises the class beside it."""
    rows = re.findall(r"^\| (\d{3}.*?) \| .*? \| (.*?) \|$", README, flags=re.MULTILINE)
    assert len(rows) > 8
    for statuses, kinds in rows:
        type_name = (re.findall(r"`(\w+)`", statuses) or ["some_error"])[0]
        codes = [int(code) for code in re.findall(r"\d{3}", statuses)]
        names = re.findall(r"`(\w+)`", kinds)
        names = names if len(names) > 1 else names * len(codes)
        for code, name in zip(codes, names, strict=True):
            fields = {"code": code, "message": "no", "type": type_name}
            assert type(engine_error(code, fields, None)).__name__ == name, code


def test_links_lead_somewhere() -> None:
    """Files that the READMEs link to exist."""
    for text, base in ((README, ROOT), (ENGINE_README, ROOT / "engine")):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (base / target).exists(), target


def test_layers_are_those_that_are_checked() -> None:
    """The map of the engine shows the order that `tests/test_imports.py` enforces."""
    (shown,) = blocks("", ENGINE_README)
    lines = [re.sub(r"\(.*?\)|/", " ", line).split()[1:] for line in shown.splitlines()]
    assert [set(line) for line in lines] == LAYERS
