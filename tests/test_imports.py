"""The house's walls: who may import whom, and what importing the client costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGINE = ROOT / "engine" / "libertai_engine"
CLIENT = ROOT / "libertai_llm"

# Modules and leaf folders, lowest layer first; imports go to a lower layer only.
LAYERS: list[set[str]] = [
    {"errors", "startup"},
    {"config", "sampling_params", "processors"},
    {"kernels"},
    {"text", "sampling", "model", "grammar"},
    {"answer_text", "context_shift", "pacing", "step_costs"},
    {"prefixes", "sequence", "embedding_queue", "lookup"},
    {"slots", "stream", "embeddings", "speculation"},
    {"scheduler"},
    {"tally"},
    {"stepper"},
    {"worker"},
    {"engine"},
    {"wire"},
    {"slot_actions", "openai_wire"},
    {"api", "openai_api", "monitoring"},
    {"http"},
    {"server"},
    {"cli"},
    {"__main__"},
]
ENGINE_LAYERS = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
FRAMEWORKS = {"langchain", "llama_index"}


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions and for type checking too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path: Path, package: Path) -> str:
    """The first part of a module's name below its package."""
    return path.relative_to(package).parts[0].removesuffix(".py")


def files_of(package: Path) -> list[Path]:
    return sorted(path for path in package.rglob("*.py") if path != package / "__init__.py")


@pytest.mark.parametrize("path", files_of(ENGINE), ids=lambda path: str(path.relative_to(ENGINE)))
def test_engine_imports_go_down(path: Path) -> None:
    """A module imports lower layers only; leaves do not know each other."""
    room = room_of(path, ENGINE)
    assert room in ENGINE_LAYERS, f"{room} has no layer: give it one"
    for name in imports_of(path):
        assert not name.startswith("libertai_llm"), "the engine does not know the client"
        parts = name.split(".")
        if parts[0] != "libertai_engine" or len(parts) < 2:
            continue
        target = parts[1]
        if target not in ENGINE_LAYERS:
            continue  # a name of the package itself, such as libertai_engine.EngineConfig
        same_room = target == room
        assert same_room or ENGINE_LAYERS[target] < ENGINE_LAYERS[room], f"{room} imports {name}"


@pytest.mark.parametrize("path", files_of(CLIENT), ids=lambda path: str(path.relative_to(CLIENT)))
def test_the_client_knows_no_framework(path: Path) -> None:
    """Only a framework's own folder imports it, and only `local` imports the engine."""
    room = room_of(path, CLIENT)
    for name in imports_of(path):
        top = name.split(".")[0]
        assert top != "libertai_engine" or room == "local", f"{path} imports {name}"
        assert top not in {"torch", "transformers"}, f"{path} imports {name}"
        if top in {"langchain_core", "langchain"}:
            assert room == "langchain", f"{path} imports {name}"
        if top == "llama_index":
            assert room == "llama_index", f"{path} imports {name}"
        if name.startswith("libertai_llm.") and room not in FRAMEWORKS:
            assert name.split(".")[1] not in FRAMEWORKS, f"{path} imports {name}"


def test_what_the_package_says_of_itself_exists() -> None:
    """Every module that its docstring names is there, and no framework without a module is named.

    The package's description is what a registry shows, so it promises nothing either.
    """
    said = ast.get_docstring(ast.parse((CLIENT / "__init__.py").read_text())) or ""
    named = re.findall(r"`libertai_llm\.(\w+)`", said)
    assert named and not [name for name in named if not find_spec(f"libertai_llm.{name}")]
    settings = (ROOT / "pyproject.toml").read_text()
    promises = re.findall(r"(?m)^(?:description|keywords) = .*$", settings) + [said]
    assert len(promises) == 3
    for framework in FRAMEWORKS:
        if not find_spec(f"libertai_llm.{framework}"):
            spelled = framework.replace("_", "")
            assert not [each for each in promises if spelled in re.sub("[-_ ]", "", each.lower())]


def loaded_after(statement: str) -> set[str]:
    """Top-level packages in `sys.modules` of a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_client_loads_no_heavy_package() -> None:
    """Neither torch, nor transformers, nor a framework, nor the engine."""
    heavy = {"torch", "transformers", "langchain_core", "llama_index", "libertai_engine", "httpx"}
    assert not loaded_after("import libertai_llm") & heavy


def test_importing_the_engine_loads_torch_only_when_needed() -> None:
    """The command line can print its help without torch."""
    assert "torch" not in loaded_after("import libertai_engine")


def test_nothing_unpickles() -> None:
    """Weights and slots are read from safetensors only."""
    for package in (ENGINE, CLIENT):
        for path in package.rglob("*.py"):
            names = set(imports_of(path))
            assert not names & {"pickle", "cPickle", "shelve", "marshal", "dill"}, path
            assert "torch.load" not in path.read_text(), path


@pytest.mark.parametrize(
    "package",
    ["libertai_llm", "libertai_engine", "libertai_llm.langchain", "libertai_llm.llama_index"],
)
def test_public_names_exist(package: str) -> None:
    """Every name in `__all__` can be imported."""
    code = f"import {package} as p\nfor name in p.__all__: getattr(p, name)"
    subprocess.run([sys.executable, "-c", code], check=True)
