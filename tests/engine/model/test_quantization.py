"""Models of 8 and 4 bits: every family loads, memory shrinks, and what it costs is told."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import kl_div

from libertai_engine.config import PRECISIONS, EmbeddingConfig, EngineConfig, Precision
from libertai_engine.errors import InvalidRequest, ModelLoadError
from libertai_engine.model.encoder import share_encoder
from libertai_engine.model.fingerprint import fingerprint
from libertai_engine.model.loader import LoadedModel, load_model
from libertai_engine.model.quality import BOUNDS, MAX_TOKENS, Quality, compare, read, text_ids
from libertai_engine.model.quantization import matrices
from libertai_engine.model.quantized import QuantizedEmbedding, QuantizedLinear
from libertai_engine.model.source import DEMO_FOLDER
from tests.fake_vision import VISION_FAMILIES
from tests.fakes import FAMILIES, random_model, save_tiny_gguf, save_tiny_model


def load(model: Path | str, **options: Any) -> LoadedModel:
    options = {"device": "cpu", "measures_quality": False, **options}
    return load_model(EngineConfig(model=str(model), **options), progress=False)


def logits(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    """Log-probabilities behind all but the last of `ids`."""
    return read(loaded.module, ids).log_probs


def resident(module: torch.nn.Module) -> int:
    """Bytes of all memory that the tensors of a module hold, each piece once."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values()
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family(tmp_path: Path, family: str, precision: Precision) -> None:
    """Head, embeddings and linear layers are quantized, all parameters are still counted."""
    folder = save_tiny_model(tmp_path / "model", family)
    exact, loaded = load(folder, dtype="bf16"), load(folder, dtype=precision)
    assert loaded.quantization is not None
    assert loaded.quantization.precision == precision
    assert loaded.quantization.num_matrices >= 10
    assert loaded.num_parameters == exact.num_parameters
    assert loaded.dtype == loaded.module.dtype == torch.bfloat16
    assert loaded.size_bytes < exact.size_bytes
    ids = list(range(5, 45))
    apart = (logits(loaded, ids) - logits(exact, ids)).norm() / logits(exact, ids).norm()
    assert apart < {"int8": 0.05, "int4": 0.3}[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_of_the_old_weights_stays(tmp_path: Path, precision: Precision) -> None:
    """The tensors of the module are what is reported, and so much smaller than in bf16."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    loaded = load(save_tiny_model(tmp_path, **sizes), dtype=precision)
    told = loaded.quantization
    assert told is not None
    buffers = 2 * 4 * 32  # the rotation's frequencies, twice
    assert resident(loaded.module) <= loaded.size_bytes + buffers + 64
    assert told.bytes_after == loaded.size_bytes
    assert told.bytes_before == 2 * loaded.num_parameters
    assert told.bytes_kept == 2 * 5 * 256  # the norms
    share = {"int8": 0.52, "int4": 0.36}[precision]  # embeddings and head have 8 bits in both
    assert loaded.size_bytes < share * told.bytes_before


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_tied_weights_stay_tied(tmp_path: Path, family: str, precision: Precision) -> None:
    """Head and embeddings have one matrix, also where the embeddings are scaled."""
    folder = save_tiny_model(tmp_path, family, tie_word_embeddings=True)
    module = load(folder, dtype=precision).module
    embedding, head = module.get_input_embeddings(), module.get_output_embeddings()
    assert isinstance(embedding, QuantizedEmbedding) and isinstance(head, QuantizedLinear)
    assert embedding.weights is head.weights
    exact = load(folder, dtype="bf16").module.get_input_embeddings()
    ids = torch.arange(50)
    apart = (embedding(ids) - exact(ids)).norm() / exact(ids).norm()
    assert apart < 0.01


def test_routers_and_fused_experts_stay(tmp_path: Path) -> None:
    """What decides between experts keeps its numbers; how much stayed is told."""
    loaded = load(save_tiny_model(tmp_path, "mixtral"), dtype="int4")
    exact = random_model("mixtral").to(torch.bfloat16)
    kept = dict(loaded.module.named_parameters())
    for name, weight in exact.named_parameters():
        if ".gate." in name or ".experts." in name:
            assert torch.equal(kept[name], weight), name
    assert loaded.quantization is not None
    assert loaded.quantization.bytes_kept == sum(each.nbytes for each in kept.values())


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_eyes_are_left_alone(vision_models: dict[str, Path], family: str) -> None:
    """The tower and the projector are as they were, the language model is not."""
    loaded = load(vision_models[family], dtype="int8")
    quantized = [n for n, p in loaded.module.named_modules() if isinstance(p, QuantizedLinear)]
    assert len(quantized) == 2 * 7 + 1
    assert not [name for name in quantized if re.search("vision|projector|connector", name)]
    assert loaded.vision is not None and not hasattr(loaded.vision, "reason")


def test_gguf_files(tmp_path: Path) -> None:
    """A GGUF file is unpacked and quantized anew, into the very codes of its folder."""
    folder = load(save_tiny_model(tmp_path / "folder"), dtype="int8")
    file = load(save_tiny_gguf(tmp_path / "tiny.gguf"), dtype="int8")
    for first, second in zip(matrices(folder.module), matrices(file.module), strict=True):
        assert torch.equal(first.codes, second.codes)


def test_broken_weights_are_named(tmp_path: Path) -> None:
    """A number that is none does not become a code."""
    model = save_tiny_model(tmp_path / "model")
    module = random_model()
    with torch.no_grad():
        module.model.layers[1].mlp.up_proj.weight[3, 3] = torch.inf
    module.save_pretrained(model)
    with pytest.raises(ModelLoadError, match="NaN|infinity"):
        load(model, dtype="int4")


def test_the_fingerprint_tells_precisions_apart(tiny_model: Path) -> None:
    """Slot files of one precision are not read by another."""
    names = {fingerprint(load(tiny_model, dtype=d).module, 64) for d in ("bf16", "int8", "int4")}
    assert len(names) == 3


def test_the_chat_models_own_states_as_embeddings(tiny_model: Path) -> None:
    """A second body on quantized weights shares them."""
    loaded = load(tiny_model, dtype="int8")
    shared = share_encoder(loaded, EmbeddingConfig(model="self"))
    codes = {each.codes.data_ptr() for each in matrices(loaded.module)}
    assert {each.codes.data_ptr() for each in matrices(shared.encoder._module)} <= codes
    assert shared.encoder.encode([[1, 5, 9]]).shape == (1, 48)


def test_embedding_models_are_not_quantized() -> None:
    """Their dtype is one of the number formats."""
    with pytest.raises(InvalidRequest, match="dtype") as caught:
        EmbeddingConfig(model="x", dtype="int8")
    assert caught.value.field == "dtype"


def test_what_the_reading_says(tiny_model: Path) -> None:
    """Perplexities of the same text before and after, as two models say that are loaded apart."""
    loaded, exact = (load(tiny_model, dtype=d, measures_quality=True) for d in ("int4", "bf16"))
    assert exact.quantization is None
    assert loaded.quantization is not None and loaded.quantization.quality is not None
    quality = loaded.quantization.quality
    ids = text_ids(exact.tokenizer, exact.train_context)
    assert len(ids) == MAX_TOKENS
    ids = ids[: quality.num_tokens + 1]
    assert read(exact.module, ids).perplexity == pytest.approx(quality.before, rel=0.01)
    assert read(loaded.module, ids).perplexity == pytest.approx(quality.after, rel=0.01)
    assert quality.rise == quality.after / quality.before - 1
    assert quality.divergence > 0.001


def test_perplexity_is_what_it_is_by_definition(tiny_model: Path) -> None:
    """Pieces and lanes give what one forward pass of transformers gives."""
    ids = text_ids(load(tiny_model).tokenizer, 100)
    with torch.no_grad():
        expected = random_model()(torch.tensor([ids]), labels=torch.tensor([ids])).loss.exp()
    reading = read(load(tiny_model, dtype="fp32").module, ids)
    assert len(reading.surprises) == 99
    assert reading.perplexity == pytest.approx(float(expected), rel=1e-3)


def test_the_divergence_is_what_torch_says(tiny_model: Path) -> None:
    """To the bit, though it is computed in less memory; the reading before stays what it is."""
    exact, loaded = (load(tiny_model, dtype=dtype).module for dtype in ("bf16", "int4"))
    ids = list(range(5, 105))
    before, after = read(exact, ids), read(loaded, ids)
    expected = kl_div(after.log_probs, before.log_probs, reduction="batchmean", log_target=True)
    for _ in range(2):
        assert compare(before, loaded, ids).divergence == math.expm1(float(expected))


def test_reading_ends_in_time(tiny_model: Path) -> None:
    """Out of time after the first piece, which is read in any case."""
    loaded = load(tiny_model)
    ids = text_ids(loaded.tokenizer, 512)
    assert len(read(loaded.module, ids, seconds=0).surprises) == 64


def test_a_text_of_one_token_is_not_read(tmp_path: Path) -> None:
    """A context too short for a comparison is no reason to fail."""
    folder = save_tiny_model(tmp_path, max_position_embeddings=16)
    told = load(folder, dtype="int8", measures_quality=True).quantization
    assert told is not None and told.quality is not None and told.quality.num_tokens == 15
    assert load(folder, dtype="int8").quantization.quality is None  # type: ignore[union-attr]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_demo_model_stays_good(precision: Precision) -> None:
    """A trained model's perplexity rises within the bounds, give or take what noise on a text that
    it was not made for adds to so small a model."""
    if not DEMO_FOLDER.is_dir():
        pytest.skip("the bundled model is not in this checkout")
    told = load("demo", dtype=precision, measures_quality=True).quantization
    assert told is not None and told.quality is not None
    assert told.quality.rise < BOUNDS[precision] + 0.02
    assert told.quality.divergence < {"int8": 0.03, "int4": 0.4}[precision]


def test_a_fall_in_quality_is_a_warning(
    tiny_model: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the bound it is told as such, within it as news."""
    for bound, level in ((1e9, logging.INFO), (-1.0, logging.WARNING)):
        monkeypatch.setitem(BOUNDS, "int8", bound)
        with caplog.at_level(logging.INFO, "libertai_engine"):
            load(tiny_model, dtype="int8", measures_quality=True)
        (record,) = [each for each in caplog.records if "perplexity" in each.getMessage()]
        assert record.levelno == level and "MiB" in record.getMessage()
        caplog.clear()


def test_quality_in_words() -> None:
    """As logs and `info` show it."""
    quality = Quality(before=10.0, after=10.5, divergence=0.0123, num_tokens=511)
    assert str(quality) == "perplexity 10 -> 10.5 (+5.00%) on 511 tokens, divergence 1.23%"
