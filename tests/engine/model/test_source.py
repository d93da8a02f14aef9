"""A name stands for exactly one source, and broken files are refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from libertai_engine.errors import ModelLoadError
from libertai_engine.model.source import (
    DEMO_FOLDER,
    ModelSource,
    check_files,
    count_elements,
    find_source,
)

GGUF_V3 = b"GGUF" + (3).to_bytes(4, "little") + bytes(16)


@pytest.mark.parametrize(
    ("model", "place", "gguf_file"),
    [
        ("owner/name", "owner/name", None),
        ("gpt2", "gpt2", None),
        ("owner/name-GGUF/file.q8_0.gguf", "owner/name-GGUF", "file.q8_0.gguf"),
        ("owner/name/sub/file.gguf", "owner/name", "sub/file.gguf"),
    ],
)
def test_hub_names(model: str, place: str, gguf_file: str | None) -> None:
    """What is on no disk and looks like a hub id is one; a file may be named behind it."""
    source = find_source(model)
    assert (source.place, source.gguf_file, source.is_local) == (place, gguf_file, False)


@pytest.mark.parametrize(
    "model",
    [
        "/nowhere/model",
        "./nowhere",
        "../nowhere",
        "a/b/c",
        "nowhere.gguf",
        "model.safetensors",
        "a b",
    ],
)
def test_names_of_nothing(model: str) -> None:
    """A path that does not exist is never taken for a hub id."""
    with pytest.raises(ModelLoadError, match="no model at"):
        find_source(model)


def test_a_folder_and_a_gguf_file(tiny_model: Path, tmp_path: Path) -> None:
    """Local files win over hub names and carry their own name."""
    assert find_source(str(tiny_model)) == ModelSource(
        tiny_model.name, str(tiny_model), None, is_local=True
    )
    file = tmp_path / "small.q4_0.gguf"
    file.write_bytes(GGUF_V3)
    assert find_source(str(file)) == ModelSource(
        "small.q4_0", str(tmp_path), "small.q4_0.gguf", is_local=True
    )


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    """A single file must be a GGUF file."""
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelLoadError, match="neither a model folder nor a GGUF file"):
        find_source(str(file))


def test_the_demo_model_lies_in_the_package() -> None:
    """'demo' points into the installed package, wherever that is."""
    assert DEMO_FOLDER.parent.name == "libertai_engine"
    assert (DEMO_FOLDER.parent / "errors.py").is_file()


def test_good_files_pass(tiny_model: Path) -> None:
    """A complete folder passes, and its headers tell how many numbers it holds."""
    source = find_source(str(tiny_model))
    check_files(source)
    assert count_elements(source) == 80112


def _shard(folder: Path, shard: str) -> None:
    index = {"weight_map": {"lm_head.weight": shard}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def _pickle_only(folder: Path) -> None:
    torch.save({"lm_head.weight": torch.zeros(1)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


BREAKAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("no config", lambda f: (f / "config.json").unlink(), "holds no config.json"),
    ("config cut", lambda f: _cut(f / "config.json", 20), "config.json is not readable JSON"),
    ("config not text", lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "not readable"),
    ("config a list", lambda f: (f / "config.json").write_text("[]"), "must hold a JSON object"),
    ("no weights", lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors"),
    ("pickles only", _pickle_only, "pickled weights only"),
    ("weights cut", lambda f: _cut(f / "model.safetensors", 9999), "corrupt or cut off"),
    ("header cut", lambda f: _cut(f / "model.safetensors", 5), "corrupt or cut off"),
    ("empty", lambda f: _cut(f / "model.safetensors", 0), "corrupt or cut off"),
    (
        "header bomb",
        lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 7 + b"\x7f{}"),
        "corrupt or cut off",
    ),
    (
        "a picture",
        lambda f: (f / "model.safetensors").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)),
        "corrupt or cut off",
    ),
    ("shard missing", lambda f: _shard(f, "model-00002-of-00002.safetensors"), "not in"),
    ("shard outside", lambda f: _shard(f, "../model.safetensors"), "not in"),
    (
        "index empty",
        lambda f: (_shard(f, "x"), (f / "model.safetensors.index.json").write_text("{}")),
        "names no weights",
    ),
    (
        "gguf inside",
        lambda f: ((f / "model.safetensors").unlink(), (f / "a.gguf").write_bytes(GGUF_V3)),
        "name one of them: a.gguf",
    ),
]


@pytest.mark.parametrize(
    ("breaks", "message"), [b[1:] for b in BREAKAGES], ids=[b[0] for b in BREAKAGES]
)
def test_broken_folders(
    tiny_model: Path, tmp_path: Path, breaks: Callable[[Path], object], message: str
) -> None:
    """Each missing, cut or foreign file is told with its path."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    breaks(folder)
    with pytest.raises(ModelLoadError, match=message) as caught:
        check_files(find_source(str(folder)))
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.gguf", b"", "not a GGUF file"),
        ("a.gguf", b"\x89PNG\r\n\x1a\n", "not a GGUF file"),
        ("a.gguf", b"GGUF" + (1).to_bytes(4, "little"), "version that is not supported"),
        ("a-00001-of-00002.gguf", GGUF_V3, "one part of a split"),
    ],
)
def test_foreign_gguf_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """Magic, version and name are looked at before the file is parsed."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelLoadError, match=message):
        check_files(find_source(str(tmp_path / name)))
