"""The feature vectors of images, computed once and kept for a while.

In: the rows of a step. Out: what the model reads in place of the image ids among their tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import groupby

import torch

from libertai_engine.model.batch import Row
from libertai_engine.model.images import PromptImage, is_image_id


class FeatureTable:
    """Feature vectors `[vector, hidden]` of the latest images, least recently used first to go.

    Invariant: the vectors kept weigh at most `max_bytes` together. Nothing depends on an image
    being here: one that has gone is computed again, from the request that shows it.
    """

    def __init__(self, compute: Callable[[PromptImage], torch.Tensor], max_bytes: int) -> None:
        self._compute = compute
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, image: PromptImage) -> torch.Tensor:
        """All vectors of an image, `[vector, hidden]`. Raises what computing them raises."""
        if image.digest in self._kept:
            self._kept.move_to_end(image.digest)
            return self._kept[image.digest]
        vectors = self._compute(image)
        self._keep(image.digest, vectors)
        return vectors

    def gather(self, rows: Iterable[Row]) -> torch.Tensor | None:
        """One vector for each image id in the rows, in their order; None if there is none."""
        parts = [part for row in rows for part in self._of_row(row)]
        return torch.cat(parts) if parts else None

    def _of_row(self, row: Row) -> Iterable[torch.Tensor]:
        wanted = [each for each in row.token_ids if is_image_id(each)]
        if not wanted:
            return
        owners = {each: image for image in row.images for each in image.vector_ids}
        for image, run in groupby(wanted, key=owners.__getitem__):
            yield self.of(image)[[image.index_of[each] for each in run]]

    def _keep(self, digest: bytes, vectors: torch.Tensor) -> None:
        self._kept[digest] = vectors
        self.num_bytes += vectors.nbytes
        while self.num_bytes > self._max_bytes:
            _, gone = self._kept.popitem(last=False)
            self.num_bytes -= gone.nbytes
