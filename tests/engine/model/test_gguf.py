"""A GGUF file is the same model as the folder it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from libertai_engine.config import EngineConfig
from libertai_engine.errors import ModelLoadError
from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.loader import LoadedModel, load_model
from libertai_engine.model.runner import ModelRunner
from tests.fakes import save_tiny_gguf, save_tiny_model

WIDE: dict[str, Any] = {"hidden_size": 64, "head_dim": 16}
TEXTS = ("The capital of France", "<|im_start|>user\nhi<|im_end|>", "é 🙂 日本", "  two", "")


def load(path: Path) -> LoadedModel:
    return load_model(EngineConfig(model=str(path)), progress=False)


def logits(loaded: LoadedModel) -> torch.Tensor:
    runner = ModelRunner(loaded.module, num_slots=1, context_size=8, device="cpu")
    return runner.run(Batch((Row(0, 0, (1, 30, 60, 90, 120), 1),)))[0]


def test_the_same_model_as_its_folder(tiny_model: Path, tmp_path: Path) -> None:
    """Logits, tokens, chat template and facts agree with the safetensors folder."""
    folder, file = load(tiny_model), load(save_tiny_gguf(tmp_path / "tiny.f32.gguf"))
    torch.testing.assert_close(logits(file), logits(folder), atol=1e-5, rtol=0)
    for text in TEXTS:
        assert file.tokenizer(text).input_ids == folder.tokenizer(text).input_ids
    assert file.name == "tiny.f32"
    assert file.chat_template == folder.chat_template
    assert file.eos_ids == {2}  # the format has one id only
    assert file.train_context == folder.train_context
    assert file.num_parameters == folder.num_parameters


@pytest.mark.parametrize("progress", [True, False])
def test_the_progress_bar(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], progress: bool
) -> None:
    """A bar on stderr if wanted, else nothing at all; never anything on stdout."""
    path = save_tiny_gguf(tmp_path / "tiny.gguf")
    load_model(EngineConfig(model=str(path)), progress=progress)
    out, err = capfd.readouterr()
    assert out == ""
    assert ("100%" in err) == progress
    assert progress or err == ""


def test_quantized_weights_are_unpacked(tmp_path: Path) -> None:
    """Eight-bit blocks become float32 weights, off by the rounding of the blocks and no more."""
    folder = load(save_tiny_model(tmp_path / "folder", **WIDE))
    file = load(save_tiny_gguf(tmp_path / "tiny.gguf", quantization="Q8_0", **WIDE))
    exact, rounded = logits(folder), logits(file)
    assert file.dtype == torch.float32
    assert 1e-4 < (rounded - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize(
    ("kept", "old", "new", "message"),
    [
        (0.9, b"", b"", "complete"),
        (0.1, b"", b"", "complete"),
        (0.001, b"", b"", "complete"),
        (1.0, b"llama", b"lxama", "lxama"),
        (1.0, b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight", "lack model.layers.1.mlp.up_proj"),
    ],
    ids=["tensors cut", "tokenizer cut", "header cut", "architecture unknown", "tensor missing"],
)
def test_broken_files(tmp_path: Path, kept: float, old: bytes, new: bytes, message: str) -> None:
    """What is cut off, foreign or missing in the file is an error, never random weights."""
    path = save_tiny_gguf(tmp_path / "tiny.gguf")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)].replace(old, new))
    with pytest.raises(ModelLoadError, match=message):
        load(path)
