"""The table of feature vectors: each image once, within bytes, gathered in the order of a step."""

from __future__ import annotations

import pytest
import torch

from libertai_engine.model.batch import Row
from libertai_engine.model.features import FeatureTable
from libertai_engine.model.images import PromptImage

WIDTH = 4
VECTOR_BYTES = 4 * WIDTH


class Tower:
    """Counts what it computes: vector k of image v is v + k/10, four times."""

    def __init__(self) -> None:
        self.computed: list[float] = []

    def __call__(self, image: PromptImage) -> torch.Tensor:
        value = image.inputs["pixel_values"].item()
        self.computed.append(value)
        steps = torch.arange(len(image.vector_ids)) / 10
        return (value + steps)[:, None].repeat(1, WIDTH)


def image(value: float, count: int = 3) -> PromptImage:
    return PromptImage({"pixel_values": torch.tensor(value)}, [9] * count, 9)


def values(gathered: torch.Tensor | None) -> list[float]:
    assert gathered is not None
    return [round(each, 3) for each in gathered[:, 0].tolist()]


def test_vectors_come_in_the_order_of_the_tokens() -> None:
    """Images may be cut by a step's border, repeated, and mixed with text and other rows."""
    one, two = image(1), image(2)
    table = FeatureTable(Tower(), 1 << 20)
    rows = [
        Row(
            0,
            0,
            (5, *one.vector_ids[1:], 6, *two.vector_ids[:2], one.vector_ids[0]),
            1,
            (one, two),
        ),
        Row(1, 0, (5, 6), 1),
        Row(2, 9, (*two.vector_ids, 5), 1, (two,)),
    ]
    assert values(table.gather(rows)) == [1.1, 1.2, 2.0, 2.1, 1.0, 2.0, 2.1, 2.2]
    assert table.gather(rows[1:2]) is None


def test_an_image_is_computed_once() -> None:
    """Equal images of different requests count as one."""
    tower = Tower()
    table = FeatureTable(tower, 1 << 20)
    for shown in (image(1), image(2), image(1), image(2)):
        table.of(shown)
    assert tower.computed == [1, 2] and len(table) == 2


def test_the_least_recently_used_goes_first() -> None:
    """Within the bytes allowed, and what has gone is computed again."""
    tower = Tower()
    table = FeatureTable(tower, 2 * 3 * VECTOR_BYTES)
    for value in (1, 2, 1, 3, 1, 2):
        table.of(image(value))
        assert table.num_bytes <= 2 * 3 * VECTOR_BYTES
    assert tower.computed == [1, 2, 3, 2]


def test_an_image_too_large_to_keep_is_shown_all_the_same() -> None:
    """A budget of nothing costs time and changes no answer."""
    table = FeatureTable(Tower(), 0)
    shown = image(1, 50)
    row = Row(0, 0, shown.vector_ids, 1, (shown,))
    assert len(values(table.gather([row]))) == 50
    assert (len(table), table.num_bytes) == (0, 0)


def test_an_image_that_is_not_with_its_row_is_our_mistake() -> None:
    """Nothing is guessed."""
    with pytest.raises(KeyError):
        FeatureTable(Tower(), 1 << 20).gather([Row(0, 0, image(1).vector_ids, 1)])
