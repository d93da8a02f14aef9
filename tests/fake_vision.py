"""Small real models with eyes: a random vision tower in front of a random language model.

In: a folder and the name of a family. Out: the folder, complete with its image processor; pictures
to show; and transformers' own answer to a prompt with pictures, which ours are held to.
"""

from __future__ import annotations

import base64
import io
import random
from pathlib import Path
from typing import Any

from PIL import Image

from tests.fakes import CONTEXT_SIZE, tiny_tokenizer

TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
    "initializer_range": 0.2,
}
LANGUAGE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 448,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": CONTEXT_SIZE,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GREEDY: dict[str, Any] = {"temperature": 0, "repeat_penalty": 1.0, "ignore_eos": True, "seed": 1}
VISION_FAMILIES = ("llava", "idefics3")
LLAVA_TOKENS = 16  # what one picture takes: 4 patches by 4


def save_vision_model(folder: Path | str, family: str = "llava", **language: Any) -> Path:
    """Write a random model of `family` with its processor; returns the folder."""
    import torch
    from transformers import AutoModelForImageTextToText

    processor, config = _BUILD[family]({**LANGUAGE, **language})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


def _tokenizer(*tokens: str) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    return tokenizer


def _llava(language: dict[str, Any]) -> tuple[Any, Any]:
    """One picture is one crop: a run of vectors and nothing else."""
    from transformers import LlavaConfig, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    side = TOWER["image_size"]
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    tokenizer = _tokenizer("<image>")
    processor = LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=TOWER["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **TOWER},
        text_config=language,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
    )
    return processor, config


def _idefics3(language: dict[str, Any]) -> tuple[Any, Any]:
    """One picture is several tiles and a whole, with tokens of text around and between them."""
    from transformers import Idefics3Config, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    side = TOWER["image_size"]
    pictures = Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * side}, max_image_size={"longest_edge": side}
    )
    places = [f"<row_{row}_col_{col}>" for row in (1, 2) for col in (1, 2)]
    marks = ("<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
    tokenizer = _tokenizer("<image>", *marks, *places)
    config = Idefics3Config(
        vision_config=TOWER,
        text_config=language,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    return Idefics3Processor(pictures, tokenizer, image_seq_len=4), config


_BUILD = {"llava": _llava, "idefics3": _idefics3}


def picture(seed: int, width: int | None = None, height: int = 30) -> Image.Image:
    """A picture of coloured noise; the same seed gives the same one."""
    draw = random.Random(seed)
    width = 40 + 8 * (seed % 8) if width is None else width
    return Image.frombytes("RGB", (width, height), draw.randbytes(3 * width * height))


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The file of a picture."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def base64_of(data: bytes) -> str:
    """Bytes as `image_data` carries them."""
    return base64.b64encode(data).decode()


def image_data(*seeds: int) -> list[dict[str, Any]]:
    """`image_data` with pictures of these seeds, numbered from 0."""
    return [
        {"data": base64_of(encode(picture(seed))), "id": number}
        for number, seed in enumerate(seeds)
    ]


def tagged(text: str) -> str:
    """`<image>` as tags, numbered from 0."""
    for number in range(text.count("<image>")):
        text = text.replace("<image>", f"[img-{number}]", 1)
    return text


def image_body(text: str, *seeds: int, **options: Any) -> dict[str, Any]:
    """A greedy `/completion` body; `<image>` stands for the pictures of `seeds` in the text."""
    return {
        "prompt": tagged(text),
        "image_data": image_data(*seeds),
        "n_predict": 12,
        **GREEDY,
        **options,
    }


def own_tokens(folder: Path, text: str, pictures: list[Image.Image], count: int) -> list[int]:
    """Greedy tokens of transformers' own loop; `<image>` stands for the pictures in the text."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(images=pictures or None, text=text, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    tokens = model.generate(**inputs, max_new_tokens=count, do_sample=False, pad_token_id=0)
    return tokens[0, length:].tolist()
