"""A model's eyes: loaded with it where they fit, refused with a reason where they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from libertai_engine.config import EngineConfig
from libertai_engine.errors import EngineUnavailable
from libertai_engine.model.attention import SLOT_LANES
from libertai_engine.model.images import Blindness, UnusableImage
from libertai_engine.model.loader import LoadedModel, load_model
from libertai_engine.model.vision import Vision
from libertai_engine.model.vision_probe import Blind, check_vision
from tests.fake_vision import LANGUAGE, TOWER, VISION_FAMILIES, encode, picture, save_vision_model
from tests.fakes import tiny_tokenizer


def load(folder: Path) -> LoadedModel:
    return load_model(EngineConfig(model=str(folder)), progress=False)


@pytest.fixture(scope="module")
def loaded(vision_models: dict[str, Path]) -> dict[str, LoadedModel]:
    return {family: load(folder) for family, folder in vision_models.items()}


def eyes(model: LoadedModel) -> Vision:
    assert isinstance(model.vision, Vision)
    return model.vision


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_only_the_language_model_reads_lanes(loaded: dict[str, LoadedModel], family: str) -> None:
    """The tower looks at all patches at once, as it was trained to."""
    module = loaded[family].module
    assert module.config.get_text_config()._attn_implementation == SLOT_LANES
    assert module.config.vision_config._attn_implementation != SLOT_LANES


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_features_are_those_of_transformers(
    loaded: dict[str, LoadedModel], vision_models: dict[str, Path], family: str
) -> None:
    """The same vectors as in the model's own forward pass, as many as the prompt has places."""
    shown = picture(3, 50, 40)
    own = AutoModelForImageTextToText.from_pretrained(vision_models[family], dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(vision_models[family])
    inputs = processor(images=[shown], text=processor.image_token, return_tensors="pt")
    names = {"pixel_values", "pixel_attention_mask"} & set(inputs)
    with torch.inference_mode():
        pooled = own.get_image_features(**{name: inputs[name] for name in names}).pooler_output
    image = eyes(loaded[family]).read(encode(shown))
    features = eyes(loaded[family]).features(image)
    assert features.shape == (len(image.vector_ids), LANGUAGE["hidden_size"])
    torch.testing.assert_close(features, torch.cat(list(pooled)))


def test_the_same_bytes_are_read_once(loaded: dict[str, LoadedModel]) -> None:
    """As long as anybody holds the image; the same pixels in another file have the same ids."""
    vision = eyes(loaded["llava"])
    image = vision.read(encode(picture(4)))
    assert vision.read(encode(picture(4))) is image
    assert vision.read(encode(picture(4), "WEBP", lossless=True)).token_ids == image.token_ids
    assert vision.read(encode(picture(5))).token_ids != image.token_ids


def test_waiting_images_are_bounded(
    loaded: dict[str, LoadedModel], vision_models: dict[str, Path]
) -> None:
    """Memory for images of open requests has an end, and comes back with them."""
    processor = AutoProcessor.from_pretrained(vision_models["llava"])
    vision = Vision(loaded["llava"].module, processor, max_waiting=1)
    first = vision.read(encode(picture(1)))
    with pytest.raises(EngineUnavailable, match="too many images"):
        vision.read(encode(picture(2)))
    assert vision.read(encode(picture(1))) is first
    del first
    assert vision.read(encode(picture(2))).vector_ids


def test_a_picture_that_the_processor_cannot_take(
    loaded: dict[str, LoadedModel], caplog: pytest.LogCaptureFixture
) -> None:
    """Its error goes to the log, the client hears that this picture is of no use."""

    def broken(**_: Any) -> Any:
        raise ZeroDivisionError("/secret/place")

    model = loaded["llava"]
    processor = type("Broken", (), {"__call__": staticmethod(broken)})()
    processor.image_token, processor.tokenizer = "<image>", model.tokenizer
    with pytest.raises(UnusableImage, match="cannot be shown to this model"):
        Vision(model.module, processor).read(encode(picture(1)))
    assert "/secret/place" in caplog.text


def test_features_that_do_not_fit_the_prompt_are_an_error(
    loaded: dict[str, LoadedModel],
) -> None:
    """One vector too few would put words in the place of pixels."""
    vision = eyes(loaded["llava"])
    image = vision.read(encode(picture(6)))
    image.vector_ids = image.vector_ids[1:]
    with pytest.raises(RuntimeError, match="16 features for 15 image tokens"):
        vision.features(image)


def save_blind(folder: Path, config: Any) -> Path:
    """A model whose folder holds a tokenizer and no image processor."""
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def text_config(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in LANGUAGE.items() if name != "model_type"} | changes


def test_images_that_need_more_than_causal_attention(tmp_path: Path) -> None:
    """Gemma 3 lets the tokens of an image look ahead: it is served for text, and says why."""
    from transformers import Gemma3Config

    tower = {"model_type": "siglip_vision_model", **TOWER}
    text = text_config(model_type="gemma3_text")
    model = load(
        save_blind(
            tmp_path,
            Gemma3Config(text_config=text, vision_config=tower, mm_tokens_per_image=4),
        )
    )
    assert isinstance(model.vision, Blindness) and "look ahead" in model.vision.reason


def test_images_with_positions_of_their_own(tmp_path: Path) -> None:
    """So does Qwen2-VL, whose images take two-dimensional positions."""
    from transformers import Qwen2VLConfig

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}
    tower = {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 48, "patch_size": 7}
    text = text_config(rope_parameters=rope)
    model = load(save_blind(tmp_path, Qwen2VLConfig(text_config=text, vision_config=tower)))
    assert isinstance(model.vision, Blindness) and "positions" in model.vision.reason


def test_a_folder_without_an_image_processor(
    vision_models: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Text works; the reason that clients read names no folder, the log does."""
    folder = save_vision_model(tmp_path)
    (folder / "processor_config.json").unlink()
    model = load(folder)
    assert isinstance(model.vision, Blindness)
    assert model.vision.reason == "its image processor cannot be loaded"
    assert str(folder) in caplog.text


def test_the_probe_finds_features_that_go_elsewhere(
    loaded: dict[str, LoadedModel], vision_models: dict[str, Path]
) -> None:
    """A model that adds to what stands in an image's place is found out by its logits."""

    class Tinted(type(loaded["llava"].module)):  # type: ignore[misc]
        def forward(self, *, mm_encoder_outputs: Any = None, **inputs: Any) -> Any:
            for each in (mm_encoder_outputs or {}).values():
                each.pooler_output = [vectors * 1.5 for vectors in each.pooler_output]
            return super().forward(mm_encoder_outputs=mm_encoder_outputs, **inputs)

    module = AutoModelForImageTextToText.from_pretrained(
        vision_models["llava"], dtype=torch.float32
    ).eval()
    model = loaded["llava"]
    check_vision(module, eyes(model), model.tokenizer)
    module.__class__ = Tinted
    module.set_attn_implementation("sdpa")
    with pytest.raises(Blind, match="a way of its own"):
        check_vision(module, eyes(model), model.tokenizer)


def test_a_model_of_text_has_no_eyes(tiny_model: Path) -> None:
    """Nor any reason."""
    assert load(tiny_model).vision is None
