"""The wheel: what it contains, what it requires, and what it must not contain."""

from __future__ import annotations

import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
DEMO_MODEL_MAX_BYTES = 10_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as `pip install .` builds it, without asking the network for anything."""
    folder = str(tmp_path_factory.mktemp("wheel"))
    return zipfile.ZipFile(next(WheelBuilder(str(ROOT)).build(directory=folder)))


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_two_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """No folder called `engine`, no tests, no examples."""
    top = {name.split("/")[0] for name in wheel.namelist()}
    info = {name for name in top if name.endswith(".dist-info")}
    assert top - info == {"libertai_llm", "libertai_engine"} and len(info) == 1


def test_every_source_file_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    """Modules, `py.typed` and the demo model's files alike."""
    packages = {"libertai_llm": ROOT, "libertai_engine": ROOT / "engine"}
    wanted = {
        str(path.relative_to(base))
        for package, base in packages.items()
        for path in (base / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"libertai_llm/py.typed", "libertai_engine/py.typed"} <= wanted
    assert wanted <= set(wheel.namelist())


def test_the_demo_model_is_in_the_wheel_and_small(wheel: zipfile.ZipFile) -> None:
    """Everything runs with no download, and the download of the wheel stays small."""
    sizes = {
        name.removeprefix("libertai_engine/demo_model/"): wheel.getinfo(name).file_size
        for name in wheel.namelist()
        if name.startswith("libertai_engine/demo_model/")
    }
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= set(sizes)
    assert sizes["model.safetensors"] <= DEMO_MODEL_MAX_BYTES
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in sizes)


def test_plain_installation_needs_neither_torch_nor_a_framework(metadata: Message) -> None:
    """What is installed without extras is small, and enough for the client."""
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    plain = {each.name for each in requirements if each.marker is None}
    heavy = {"torch", "transformers", "numpy", "starlette", "langchain-core", "llama-index-core"}
    assert plain >= {"requests", "httpx", "jinja2"} and not plain & heavy


def test_every_extra_that_is_promised_exists(metadata: Message) -> None:
    """The names that the README's install lines use."""
    extras = set(metadata.get_all("Provides-Extra", []))
    assert extras >= {"langchain", "llama-index", "engine", "cluster", "all", "test"}


def test_the_command_is_installed(wheel: zipfile.ZipFile) -> None:
    """`libertai-engine` starts what `python -m libertai_engine` starts."""
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "libertai-engine = libertai_engine.__main__:main" in wheel.read(name).decode()


def test_pins_satisfy_the_version_ranges(metadata: Message) -> None:
    """What `constraints.txt` installs, and tests run with, is what the ranges allow."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {
        canonicalize_name(name): pin for name, _, pin in (line.partition("==") for line in lines)
    }
    for requirement in map(Requirement, metadata.get_all("Requires-Dist", [])):
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is not None:
            assert requirement.specifier.contains(pin), requirement
