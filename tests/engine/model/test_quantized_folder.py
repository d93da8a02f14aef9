"""A quantized model that was saved is the same model, and a broken folder is a clear error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from libertai_engine.config import PRECISIONS, EngineConfig, Precision
from libertai_engine.errors import ModelLoadError
from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.fingerprint import fingerprint
from libertai_engine.model.loader import LoadedModel, load_model
from libertai_engine.model.quantized_folder import save
from libertai_engine.model.runner import ModelRunner
from tests.fake_vision import VISION_FAMILIES
from tests.fakes import FAMILIES, save_tiny_gguf, save_tiny_model

IDS = (1, 30, 60, 90, 120)


def load(model: Path | str, **options: Any) -> LoadedModel:
    options = {"measures_quality": False, "device": "cpu", **options}
    is_for_saving = options.pop("is_for_saving", False)
    config = EngineConfig(model=str(model), **options)
    return load_model(config, progress=False, is_for_saving=is_for_saving)


def saved(model: Path | str, folder: Path, precision: Precision, **options: Any) -> LoadedModel:
    """The model, which was written to `folder`; loaded anew, since without native kernels what is
    for saving is multiplied in another way."""
    save(load(model, dtype=precision, is_for_saving=True, **options), folder)
    return load(model, dtype=precision, **options)


def logits(loaded: LoadedModel, **options: Any) -> torch.Tensor:
    """Of five tokens at once, then of one alone: through either kind of step."""
    runner = ModelRunner(loaded.module, num_slots=1, context_size=32, device="cpu", **options)
    first = runner.run(Batch((Row(0, 0, IDS * 4, 20),)))
    return torch.cat((first, runner.run(Batch((Row(0, 20, (7,), 1),)))))


@pytest.fixture(scope="module")
def int4_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model in 4 bits. Read it, never write."""
    folder = tmp_path_factory.mktemp("quantized") / "tiny-int4"
    saved(tiny_model, folder, "int4", measures_quality=True)
    return folder


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_same_model_of_every_family(tmp_path: Path, family: str, precision: Precision) -> None:
    """Logits, name for slot files, sizes and settings are the same, without any flag."""
    model = save_tiny_model(tmp_path / "model", family)
    first = saved(model, tmp_path / "quantized", precision)
    second = load(tmp_path / "quantized")
    assert fingerprint(first.module, 64) == fingerprint(second.module, 64)
    assert torch.equal(logits(first, kernels="auto"), logits(second, kernels="auto"))
    assert first.quantization == second.quantization
    for name in ("size_bytes", "num_parameters", "eos_ids", "chat_template", "train_context"):
        assert getattr(first, name) == getattr(second, name), name
    text = "<|im_start|>user\nhi é🙂"
    assert first.tokenizer(text).input_ids == second.tokenizer(text).input_ids


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tied_weights_are_in_the_file_once(tmp_path: Path, precision: Precision) -> None:
    """And are one again when it is loaded."""
    model = save_tiny_model(tmp_path / "model", tie_word_embeddings=True)
    first = saved(model, tmp_path / "quantized", precision)
    assert (
        tmp_path / "quantized" / "quantized.safetensors"
    ).stat().st_size < first.size_bytes + 8000
    second = load(tmp_path / "quantized")
    head, embedding = second.module.get_output_embeddings(), second.module.get_input_embeddings()
    assert head.weights is embedding.weights
    assert second.size_bytes == first.size_bytes
    assert torch.equal(logits(first), logits(second))


@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_who_multiplies_is_no_matter_of_the_folder(
    tiny_model: Path, tmp_path: Path, kernels: str
) -> None:
    """Saved without native kernels, it runs with them, and the other way round."""
    saved(tiny_model, tmp_path / "one", "int4", kernels=kernels)
    saved(tiny_model, tmp_path / "two", "int4")
    one, two = (load_file(tmp_path / name / "quantized.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    apart = logits(load(tmp_path / "one", kernels="torch")) - logits(load(tmp_path / "one"))
    assert apart.norm() < 0.1 * logits(load(tmp_path / "one")).norm()


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_models_with_eyes(vision_models: dict[str, Path], tmp_path: Path, family: str) -> None:
    """The image processor is saved with them."""
    first = saved(vision_models[family], tmp_path / "quantized", "int8")
    second = load(tmp_path / "quantized")
    assert type(first.vision) is type(second.vision) and not hasattr(second.vision, "reason")
    assert torch.equal(logits(first), logits(second))


def test_a_gguf_file_becomes_a_folder(tmp_path: Path) -> None:
    """Tokenizer and template come out of the file."""
    path = save_tiny_gguf(tmp_path / "tiny.gguf")
    first, second = saved(path, tmp_path / "quantized", "int8"), load(tmp_path / "quantized")
    assert torch.equal(logits(first), logits(second))
    assert first.chat_template == second.chat_template
    assert first.tokenizer("hi é🙂").input_ids == second.tokenizer("hi é🙂").input_ids


def test_what_was_measured_is_remembered(int4_folder: Path) -> None:
    """The quality is read from the folder, not measured again."""
    told = load(int4_folder).quantization
    assert told is not None and told.quality is not None
    assert told.quality.num_tokens == 511 and told.quality.divergence > 0
    written = json.loads((int4_folder / "config.json").read_text())["quantization_config"]
    assert written["quality"]["before"] == told.quality.before


def test_saving_a_saved_model_changes_nothing(int4_folder: Path, tmp_path: Path) -> None:
    """From folder to folder, the weights stay what they are."""
    saved(int4_folder, tmp_path / "again", "int4")
    for name in ("quantized.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (int4_folder / name).read_bytes()


def test_weights_lie_in_the_file(int4_folder: Path) -> None:
    """They are mapped: nothing is read that is not needed, and processes share the memory."""
    module: Any = load(int4_folder).module
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system shows no maps")
    lines = [line for line in maps.read_text().splitlines() if str(int4_folder) in line]
    spans = [tuple(int(each, 16) for each in line.split()[0].split("-")) for line in lines]
    codes = module.model.layers[0].mlp.up_proj.weights.codes
    assert any(first <= codes.data_ptr() < last for first, last in spans)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_another_precision_is_refused(int4_folder: Path, dtype: str) -> None:
    """Codes cannot become what they were; the precision that is there may be named."""
    with pytest.raises(ModelLoadError, match="quantized to int4"):
        load(int4_folder, dtype=dtype)
    assert load(int4_folder, dtype="int4").name == "tiny-int4"


def test_a_model_quantized_by_others_is_not_quantized_again(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Its numbers are no weights that could be rounded."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    _edit(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ModelLoadError, match="quantized already"):
        load(folder, dtype="int8")


def test_transformers_refuses_such_a_folder(int4_folder: Path) -> None:
    """It does not take random numbers for the layers that it does not find."""
    with pytest.raises(OSError, match="no file named model.safetensors"):
        AutoModelForCausalLM.from_pretrained(int4_folder, local_files_only=True)


def test_a_folder_in_use_is_not_replaced(int4_folder: Path, tiny_model: Path) -> None:
    """Nothing is written beside it, either."""
    before = sorted(int4_folder.parent.iterdir())
    with pytest.raises(ModelLoadError, match="exists already"):
        saved(tiny_model, int4_folder, "int4")
    assert sorted(int4_folder.parent.iterdir()) == before


def test_an_empty_folder_is_filled_and_a_failure_leaves_nothing(
    tiny_model: Path, tmp_path: Path
) -> None:
    """What is there is complete."""
    (tmp_path / "empty").mkdir()
    saved(tiny_model, tmp_path / "empty", "int8")
    assert (tmp_path / "empty" / "tokenizer.json").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelLoadError, match="cannot write"):
        saved(tiny_model, tmp_path / "file" / "inside", "int8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_the_folder_may_be_where_the_user_is(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is one like any other, and so is the shortest of them."""
    monkeypatch.chdir(tmp_path)
    saved(tiny_model, Path("."), "int8")
    assert (tmp_path / "quantized.safetensors").is_file()


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _entry(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        entry = json.loads((folder / "config.json").read_text())["quantization_config"] | changes
        kept = {name: each for name, each in entry.items() if each is not ...}
        _edit(folder, quantization_config=kept)

    return change


def _weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "quantized.safetensors"
        weights = {name: each.clone() for name, each in load_file(path).items()}
        change(weights)
        save_file(weights, path, metadata={"format": "pt"})

    return apply


def _head_of(owner: str) -> Callable[[Path], None]:
    """The head has no weights of its own, but those of `owner`."""

    def change(folder: Path) -> None:
        _weights(lambda w: [w.pop(f"lm_head.weights.{each}") for each in ("codes", "scale")])(
            folder
        )
        _entry(shared={"lm_head": owner})(folder)

    return change


def _cut(folder: Path) -> None:
    path = folder / "quantized.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


UP = "model.layers.1.mlp.up_proj"
NORM = "model.norm.weight"
QUALITY = {"before": 1.0, "after": 1.0, "divergence": 0.0, "num_tokens": 5}
BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "version": (_entry(version=2), "quantization_config.version"),
    "no version": (_entry(version=...), "quantization_config.version"),
    "precision": (_entry(precision="int3"), "quantization_config.precision"),
    "group": (_entry(group_size=64), "quantization_config.group_size"),
    "unknown field": (_entry(zeros=True), "quantization_config.zeros"),
    "shared a list": (_entry(shared=["a"]), "quantization_config.shared"),
    "shared a number": (_entry(shared={"lm_head": 3}), "quantization_config.shared"),
    "shared unknown": (_head_of("nowhere"), "gives `lm_head` the weights of `nowhere`"),
    "shared misfit": (_head_of(UP), "gives `lm_head` the weights of"),
    "shared by nobody": (_entry(shared={"nobody": UP}), "`nobody`, where the model has no such"),
    "shared twice": (_entry(shared={"lm_head": UP}), "no such layer"),
    "quality short": (_entry(quality={"before": 1.0}), "quantization_config.quality"),
    "quality nan": (_entry(quality=QUALITY | {"after": float("nan")}), "config.quality"),
    "quality text": (_entry(quality=QUALITY | {"after": "1"}), "config.quality"),
    "codes missing": (_weights(lambda w: w.pop(f"{UP}.weights.codes")), UP),
    "scale missing": (_weights(lambda w: w.pop(f"{UP}.weights.scale")), f"{UP}.weights.scale"),
    "norm missing": (_weights(lambda w: w.pop(NORM)), f"lack {NORM}"),
    "norm misshapen": (_weights(lambda w: w.update({NORM: w[NORM][:9].clone()})), NORM),
    "norm of integers": (_weights(lambda w: w.update({NORM: w[NORM].to(torch.int8)})), NORM),
    "codes cut": (
        _weights(lambda w: w.update({f"{UP}.weights.codes": w[f"{UP}.weights.codes"][1:].clone()})),
        f"{UP}.weights.codes",
    ),
    "codes retyped": (
        _weights(
            lambda w: w.update({f"{UP}.weights.codes": w[f"{UP}.weights.codes"].view(torch.int8)})
        ),
        f"{UP}.weights.codes",
    ),
    "codes of floats": (
        _weights(lambda w: w.update({f"{UP}.weights.codes": torch.zeros(96, 48)})),
        f"{UP}.weights.codes",
    ),
    "scale retyped": (
        _weights(lambda w: w.update({f"{UP}.weights.scale": w[f"{UP}.weights.scale"].bfloat16()})),
        f"{UP}.weights.scale",
    ),
    "scale not a number": (_weights(lambda w: w[f"{UP}.weights.scale"].fill_(torch.nan)), "NaN"),
    "foreign tensor": (_weights(lambda w: w.update(evil=torch.ones(1))), "`evil`"),
    "codes for a norm": (
        _weights(lambda w: w.update({"model.norm.weights.codes": torch.ones(1, dtype=torch.int8)})),
        "`model.norm`",
    ),
    "another model": (lambda f: _edit(f, hidden_size=64), "do not belong|is not of this model"),
    "more layers": (lambda f: _edit(f, num_hidden_layers=3), "lack model.layers.2"),
    "fewer layers": (lambda f: _edit(f, num_hidden_layers=1), "model.layers.1"),
    "a giant": (lambda f: _edit(f, hidden_size=10**7), "tiny|model|memory"),
    "cut off": (_cut, "corrupt or cut off"),
    "no weights": (lambda f: (f / "quantized.safetensors").unlink(), "no model.safetensors"),
    "pickles": (
        lambda f: (f / "quantized.safetensors").rename(f / "pytorch_model.bin"),
        "pickled weights",
    ),
}


@pytest.mark.parametrize(("breaks", "message"), BREAKAGES.values(), ids=list(BREAKAGES))
def test_broken_folders(
    int4_folder: Path, tmp_path: Path, breaks: Callable[[Path], object], message: str
) -> None:
    """The error names the file, the field or the tensor; nothing is filled in."""
    folder = shutil.copytree(int4_folder, tmp_path / "model")
    breaks(folder)
    with pytest.raises(ModelLoadError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
