"""Ids of images: beyond every vocabulary, the same for the same image, never shared."""

from __future__ import annotations

import torch

from libertai_engine.model.images import FIRST_IMAGE_ID, PromptImage, is_image_id, vector_ids

PLACEHOLDER = 7


def image(value: float, layout: tuple[int, ...] = (1, 7, 7, 2, 7, 1)) -> PromptImage:
    return PromptImage({"pixel_values": torch.full((1, 2), value)}, layout, PLACEHOLDER)


def test_vectors_take_the_places_of_the_placeholders() -> None:
    """The text around and between them stays."""
    shown = image(0.5)
    first, second, third = shown.vector_ids
    assert shown.token_ids == (1, first, second, 2, third, 1)
    assert shown.index_of == {first: 0, second: 1, third: 2}
    assert all(map(is_image_id, shown.vector_ids)) and not any(map(is_image_id, (0, 2, 1 << 31)))


def test_the_same_image_has_the_same_ids() -> None:
    """Whenever and wherever it is read, so that what is cached for it is found again."""
    assert image(0.5).token_ids == image(0.5).token_ids
    # Ids may lie in files of saved slots: these numbers must never change.
    assert vector_ids(b"digest", 2) == (4876837136271709646, 8131174676269315832)


def test_different_images_share_no_id() -> None:
    """Neither other pixels nor another layout nor other inputs may be taken for this image."""
    named = PromptImage({"pixels": torch.full((1, 2), 0.5)}, (1, 7, 7, 2, 7, 1), PLACEHOLDER)
    shaped = PromptImage({"pixel_values": torch.full((2, 1), 0.5)}, (1, 7, 7, 2, 7, 1), PLACEHOLDER)
    images = [image(0.5), image(0.25), image(0.5, (1, 7, 7, 7, 2)), named, shaped]
    ids = [each for shown in images for each in shown.vector_ids]
    assert len(set(ids)) == 15


def test_ids_fit_into_64_bits() -> None:
    """Tensors and files of token ids hold them as they are."""
    ids = vector_ids(b"any", 4096)
    assert len(set(ids)) == 4096
    assert all(FIRST_IMAGE_ID <= each < 1 << 63 for each in ids)
    assert torch.tensor(ids, dtype=torch.long).tolist() == list(ids)


def test_an_image_weighs_its_inputs() -> None:
    """What is bounded is what is held."""
    assert image(0.5).nbytes == 8
