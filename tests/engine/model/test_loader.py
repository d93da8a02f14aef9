"""Loading gives the weights that are on disk, or one clear error."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from libertai_engine.config import Dtype, EngineConfig
from libertai_engine.errors import InvalidRequest, ModelLoadError
from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.loader import LoadedModel, load_model
from libertai_engine.model.runner import ModelRunner
from libertai_engine.model.source import DEMO_FOLDER
from tests.fakes import CHAT_TEMPLATE, CONTEXT_SIZE, random_model, save_tiny_model

IDS = (1, 30, 60, 90, 120)


def load(model: Path | str, **options: Any) -> LoadedModel:
    return load_model(EngineConfig(model=str(model), **options), progress=False)


def logits(loaded: LoadedModel) -> torch.Tensor:
    runner = ModelRunner(loaded.module, num_slots=1, context_size=8, device=loaded.device)
    return runner.run(Batch((Row(0, 0, IDS, 1),)))[0]


def test_what_is_loaded(tiny_model: Path) -> None:
    """Weights, tokenizer and the facts others need."""
    loaded = load(tiny_model)
    with torch.inference_mode():
        expected = random_model()(torch.tensor([IDS])).logits[0, -1]
    torch.testing.assert_close(logits(loaded), expected, atol=1e-4, rtol=0)
    assert loaded.name == tiny_model.name
    assert loaded.chat_template == CHAT_TEMPLATE
    assert loaded.eos_ids == {2, 399}
    assert loaded.train_context == CONTEXT_SIZE
    assert loaded.num_parameters == 80112
    assert loaded.size_bytes == 4 * 80112
    assert loaded.device == torch.device("cpu")
    assert loaded.tokenizer("hi").input_ids[0] == loaded.tokenizer.bos_token_id == 1
    assert not loaded.module.training


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)],
)
def test_the_number_format(tiny_model: Path, dtype: Dtype, expected: torch.dtype) -> None:
    """On a CPU, auto is fp32; the weights really have the format that is reported."""
    loaded = load(tiny_model, dtype=dtype, device="cpu")
    assert loaded.dtype == loaded.module.lm_head.weight.dtype == expected


def test_an_alias_names_the_model(tiny_model: Path) -> None:
    """The alias is what the model is called from then on."""
    assert load(tiny_model, alias="small").name == "small"


@pytest.mark.parametrize("device", ["gpu", "meta", "mps", "cuda:x", "cpu:0:0"])
def test_unknown_devices(tiny_model: Path, device: str) -> None:
    """A device nobody has is the caller's mistake, and the field is named."""
    with pytest.raises(InvalidRequest, match="device") as caught:
        load(tiny_model, device=device)
    assert caught.value.field == "device"


def test_a_gpu_that_is_not_there(tiny_model: Path) -> None:
    """A device of a kind we know, but not in this machine, cannot be loaded to."""
    with pytest.raises(ModelLoadError, match="no CUDA device"):
        load(tiny_model, device="cuda:99")


@pytest.mark.parametrize("progress", [True, False])
def test_the_progress_bar(
    tiny_model: Path, capfd: pytest.CaptureFixture[str], progress: bool
) -> None:
    """A bar on stderr if wanted, else nothing at all; never anything on stdout."""
    load_model(EngineConfig(model=str(tiny_model)), progress=progress)
    out, err = capfd.readouterr()
    assert out == ""
    assert ("100%" in err) == progress
    assert progress or err == ""


def test_switching_the_bar_off_is_not_for_ever(tiny_model: Path) -> None:
    """transformers' own settings are as they were, also after a failure."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    load(tiny_model)
    with pytest.raises(ModelLoadError):
        load("owner/nowhere", local_files_only=True)
    assert logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == verbosity


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def _remove_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def _long_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    vocab.update({f"foreign{i}": len(vocab) + i for i in range(500)})
    path.write_text(json.dumps(content))


UP = "model.layers.1.mlp.up_proj.weight"
EVIL = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
BREAKAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("tensor missing", lambda f: _edit_weights(f, lambda w: w.pop(UP)), f"lack {UP}"),
    ("layer missing", lambda f: _edit(f, num_hidden_layers=3), "lack model.layers.2.*and 6 more"),
    (
        "tensor misshapen",
        lambda f: _edit_weights(f, lambda w: w.update({UP: w[UP][:9].clone()})),
        "cannot load",
    ),
    ("config too large", lambda f: _edit(f, hidden_size=10**6), "config.json describes"),
    ("config nonsense", lambda f: _edit(f, num_attention_heads=0), "cannot load"),
    ("config mistyped", lambda f: _edit(f, vocab_size="many"), "vocab_size"),
    ("type unknown", lambda f: _edit(f, model_type="nope"), "nope"),
    ("type missing", lambda f: (f / "config.json").write_text("{}"), "model_type"),
    ("foreign code", lambda f: _edit(f, model_type="evil", auto_map=EVIL), "custom code"),
    ("other head", lambda f: _edit(f, architectures=["LlamaForSequenceClassification"]), "causal"),
    ("an encoder", lambda f: _edit(f, model_type="t5", architectures=None), "causal"),
    ("no tokenizer", _remove_tokenizer, "no usable tokenizer"),
    ("tokenizer empty", lambda f: (f / "tokenizer.json").write_text("{}"), "no usable tokenizer"),
    ("tokenizer of another model", _long_tokenizer, "tokenizer .* has 900 tokens"),
    (
        "not a number",
        lambda f: _edit_weights(f, lambda w: w[UP].fill_(torch.nan)),
        "NaN",
    ),
]


@pytest.mark.parametrize(
    ("breaks", "message"), [b[1:] for b in BREAKAGES], ids=[b[0] for b in BREAKAGES]
)
def test_broken_models(
    tiny_model: Path, tmp_path: Path, breaks: Callable[[Path], object], message: str
) -> None:
    """Nothing is filled in with random numbers, nothing foreign is run, and the error says why."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    breaks(folder)
    with pytest.raises(ModelLoadError, match=message):
        load(folder)


def test_foreign_code_beside_a_known_architecture_is_not_run(
    tiny_model: Path, tmp_path: Path
) -> None:
    """A model may carry code of its own; ours is used instead."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    _edit(folder, auto_map=EVIL)
    trace = tmp_path / "ran"
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(trace)!r}).touch()\n")
    assert load(folder).num_parameters == 80112
    assert not trace.exists()


def test_families_without_slot_lanes_fail_at_load(tmp_path: Path) -> None:
    """A bidirectional model is refused when it is loaded, not when it is asked."""
    with pytest.raises(ModelLoadError, match="not causal"):
        load(save_tiny_model(tmp_path, "bert"))


def test_sharded_weights(tiny_model: Path, tmp_path: Path) -> None:
    """Weights in several files are put together."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    random_model().save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    torch.testing.assert_close(logits(load(folder)), logits(load(tiny_model)), atol=1e-4, rtol=0)


def test_a_local_model_needs_no_network(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one address is looked up."""
    asked: list[Any] = []

    def refuse(*address: Any, **_: Any) -> Any:
        asked.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load(tiny_model)
    assert asked == []


@pytest.mark.parametrize("model", ["owner/nowhere", "owner/nowhere/file.gguf"])
def test_a_hub_id_that_cannot_be_fetched(model: str) -> None:
    """With local files only, a model that was never downloaded is a clear error."""
    with pytest.raises(ModelLoadError, match=f"cannot fetch or load `{model}`") as caught:
        load(model, local_files_only=True)
    assert "\n" not in str(caught.value)


def test_the_demo_model() -> None:
    """The bundled model loads, has a chat template and room for a conversation."""
    if not DEMO_FOLDER.is_dir():
        pytest.skip("the bundled model is not in this checkout")
    loaded = load("demo")
    assert loaded.name == "demo"
    assert loaded.chat_template
    assert loaded.train_context >= 512
