"""Engines with weights of 8 and 4 bits: one answer in every way, and the commands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from libertai_engine.__main__ import main
from libertai_engine.api import CompletionAPI
from libertai_engine.cli.serve import describe, embedding_config
from libertai_engine.config import PRECISIONS, EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_engine.errors import SlotFileError
from libertai_llm import Client
from tests.engine.serving import running

# NOTE: drafts are tried where they save time, so steps would not be the same ones every time.
CONFIG = EngineConfig(device="cpu", num_slots=2, batch_size=64, context_size=512, max_draft=0)
REQUESTS = [
    {"prompt": "Hello, how are you today?", "max_tokens": 24, "temperature": 0},
    {"prompt": "What is 3 plus 4?" * 9, "max_tokens": 24, "temperature": 0.8, "seed": 3},
    {"prompt": "As JSON: ", "json_schema": {"type": "object"}, "max_tokens": 40, "seed": 5},
]


@pytest.fixture(scope="module", params=PRECISIONS)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    config = replace(CONFIG, dtype=request.param, measures_quality=False)
    with load_engine(config, progress=False) as loaded:
        yield loaded


def test_one_answer_in_every_way(engine: Engine) -> None:
    """In-process and over HTTP, whole and streamed, and again."""
    with (
        running(CompletionAPI(engine)) as server,
        Client(engine=engine) as near,
        Client(server.url) as far,
    ):
        for request in REQUESTS:
            whole = near.complete(**request, cache_prompt=False)
            assert whole.tokens_predicted > 0
            for client in (near, far):
                assert client.complete(**request, cache_prompt=False).content == whole.content
                chunks = list(client.stream(**request, cache_prompt=False))
                assert "".join(chunk.content for chunk in chunks) == whole.content


def test_slots_move_between_equal_weights_only(engine: Engine, tmp_path: Path) -> None:
    """A slot file is for the precision that it was made with, however that was loaded."""
    assert engine.config.dtype in PRECISIONS
    with Client(engine=engine) as client:
        client.complete("Once upon a time", max_tokens=4, slot_id=0)
    engine.save_slot(0, tmp_path / "slot")
    out = tmp_path / "folder"
    flags = ["--dtype", engine.config.dtype, "--out", str(out), "--no-quality"]
    assert main(["quantize", "demo", *flags]) == 0
    with load_engine(replace(CONFIG, model=str(out)), progress=False) as same:
        assert same.restore_slot(1, tmp_path / "slot").num_tokens > 4
    config = replace(CONFIG, dtype="bf16")
    with load_engine(config, progress=False) as other, pytest.raises(SlotFileError):
        other.restore_slot(1, tmp_path / "slot")


def test_the_commands(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`quantize` writes a folder and says what it cost; `info` tells the same of the folder."""
    out = tmp_path / "small"
    assert main(["quantize", str(tiny_model), "--dtype", "int4", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert str(out) in said and "not quantized" in said and "perplexity" in said
    assert main(["info", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = dict(re.split(r" {2,}", line, maxsplit=1) for line in lines)
    assert table["dtype"] == "int4, bfloat16 between the layers"
    assert table["quantized"].startswith("16 matrices") and table["quantized"] in " ".join(lines)
    assert table["quality"] in said
    assert table["KV cache"] == "192 bytes a token, bfloat16"
    assert main(["quantize", str(tiny_model), "--dtype", "int4", "--out", str(out)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_no_quality(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The reading may be left out."""
    assert main(["info", str(tiny_model), "--dtype", "int8", "--no-quality"]) == 0
    assert re.search(r"quality +not measured", capsys.readouterr().out)


def test_the_server_says_the_precision(engine: Engine) -> None:
    """In the line that it prints when it is ready."""
    assert f"M parameters, {engine.config.dtype} on cpu" in describe(engine)


def test_embedding_models_beside_a_quantized_one() -> None:
    """They keep their own type; one that is served alone cannot be quantized."""
    from libertai_engine.__main__ import parse

    args = parse(["serve", "--dtype", "int8", "--embedding-model", "x"])
    config = embedding_config(args)
    assert config is not None and config.dtype == "auto"
    with pytest.raises(SystemExit):
        embedding_config(parse(["serve", "x", "--dtype", "int8", "--embedding"]))


def test_the_demo_model_shrinks(tmp_path: Path) -> None:
    """What is on disk is what is in memory, and a fraction of what it was."""
    assert main(["quantize", "demo", "--dtype", "int4", "--out", str(tmp_path / "q")]) == 0
    size = (tmp_path / "q" / "quantized.safetensors").stat().st_size
    entry = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    with load_engine(replace(CONFIG, dtype="bf16"), progress=False) as engine:
        assert engine.model is not None and size < 0.45 * engine.model.size_bytes
    assert entry["quant_method"] == "libertai" and entry["precision"] == "int4"
