"""Many rows laid end to end along one packed axis, as tensors.

In: a `Batch` of plain integers. Out: a `PackedBatch`: what the model reads (`input_ids`,
`position_ids`), where keys and values go, and which stretch of the axis each row has.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from libertai_engine.kernels.library import Library
from libertai_engine.model.batch import Batch
from libertai_engine.model.images import is_image_id


@dataclass(frozen=True, slots=True)
class PackedRow:
    """One row on the packed axis: tokens `[first, last)`, positions `[start, end)` of a lane.

    Invariant: `last - first == end - start >= 1`.
    """

    slot: int
    start: int
    end: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, eq=False)
class PackedBatch:
    """All rows of one step. Invariant: the rows cover the packed axis, T tokens, without gaps.

    `attended` tells how each layer attended that has looked at the rows so far (`Manner`).
    `vectors` stand in place of the tokens at `vector_places`, whose ids in `input_ids` say nothing.
    `library` attends to the lanes where there is one, else torch.
    """

    rows: tuple[PackedRow, ...]
    input_ids: torch.Tensor  # [1, T]
    position_ids: torch.Tensor  # [1, T]
    slots: torch.Tensor  # [T], the lane of each token
    logits_to_keep: torch.Tensor  # [wanted logits], indices into the packed axis
    vector_places: tuple[int, ...]  # indices into the packed axis
    vectors: torch.Tensor | None = None  # [vector, hidden]
    attended: list[object] = field(default_factory=list)
    library: Library | None = None


def pack(batch: Batch, device: torch.device, library: Library | None = None) -> PackedBatch:
    """Lay the rows of `batch` end to end, in their order; vectors are left to be filled in."""
    rows: list[PackedRow] = []
    first = 0
    for row in batch.rows:
        last = first + len(row.token_ids)
        rows.append(PackedRow(row.slot, row.start, row.end, first, last))
        first = last
    token_ids, places = _without_images([each for row in batch.rows for each in row.token_ids])
    numbers = torch.tensor(
        [
            token_ids,
            [position for row in rows for position in range(row.start, row.end)],
            [row.slot for row in rows for _ in range(row.start, row.end)],
        ],
        dtype=torch.long,
    ).to(device)  # [3, T]: one transfer for all three
    kept = places_of_logits(batch)
    return PackedBatch(
        rows=tuple(rows),
        input_ids=numbers[:1],
        position_ids=numbers[1:2],
        slots=numbers[2],
        logits_to_keep=torch.tensor(kept, dtype=torch.long, device=device),
        vector_places=places,
        library=library,
    )


def places_of_logits(batch: Batch) -> list[int]:
    """Indices into the packed axis of the tokens behind which logits are wanted."""
    places: list[int] = []
    last = 0
    for row in batch.rows:
        last += len(row.token_ids)
        places.extend(range(last - row.num_logits, last))
    return places


def _without_images(token_ids: list[int]) -> tuple[list[int], tuple[int, ...]]:
    """The ids with 0 for every image id, and where those are."""
    if not is_image_id(max(token_ids)):
        return token_ids, ()
    places = tuple(place for place, each in enumerate(token_ids) if is_image_id(each))
    return [0 if is_image_id(each) else each for each in token_ids], places
