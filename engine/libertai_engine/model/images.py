"""Images as runs of token ids that lie beyond every vocabulary.

In: what an image processor makes of one picture. Out: a `PromptImage`, whose ids stand in a prompt
like all others: slots, prefixes and batches compare and count them, only the runner looks behind.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol

import torch

FIRST_IMAGE_ID = 1 << 62
"""Ids from here to 2^63 are feature vectors of images; they fit into 64 bits, as others do."""


def is_image_id(token_id: int) -> bool:
    """True for the id of a feature vector, False for a token of text."""
    return token_id >= FIRST_IMAGE_ID


def vector_ids(digest: bytes, count: int) -> tuple[int, ...]:
    """Ids for the `count` feature vectors of the image with this digest.

    Each is 62 bits of SHAKE-256 over the digest, so the same image has the same ids for ever and
    in every process, and two images never share a run of ids: a prefix of one that was cached, or
    saved to a file, cannot be taken for the other.
    """
    stream = hashlib.shake_256(digest).digest(8 * count)
    return tuple(FIRST_IMAGE_ID | each >> 2 for each in struct.unpack(f"<{count}Q", stream))


class UnusableImage(Exception):
    """These bytes are no picture that can be shown to the model. Says why, in a client's words."""


class PromptImage:
    """One image as it stands in a prompt. Never changes, so that requests may share it.

    Invariant: `token_ids` is `layout` (the ids of the model's own text around and between the
    vectors) with `vector_ids` in place of every `placeholder_id`. `inputs` is what the vision
    tower reads, on the host; everything follows from it, so equal `inputs` mean equal ids.
    """

    def __init__(
        self, inputs: Mapping[str, torch.Tensor], layout: Sequence[int], placeholder_id: int
    ) -> None:
        self.inputs = dict(inputs)
        self.digest = _digest(self.inputs, layout)
        self.vector_ids = vector_ids(self.digest, layout.count(placeholder_id))
        vectors = iter(self.vector_ids)
        self.token_ids = tuple(next(vectors) if each == placeholder_id else each for each in layout)

    @property
    def nbytes(self) -> int:
        """Host memory held, in bytes."""
        return sum(tensor.nbytes for tensor in self.inputs.values())

    @cached_property
    def index_of(self) -> dict[int, int]:
        """The place of each vector's id among the image's vectors."""
        return {vector_id: index for index, vector_id in enumerate(self.vector_ids)}


class ImageReader(Protocol):
    """What turns the bytes of a request into an image (see `Vision`). Safe from many threads."""

    @property
    def placeholder(self) -> str:
        """The text that stands for one image in a prompt, a token of its own."""
        ...

    @property
    def placeholder_id(self) -> int:
        """The id of that token."""
        ...

    def read(self, data: bytes) -> PromptImage:
        """Raises `UnusableImage`, and `EngineUnavailable` if too many images are waiting."""
        ...


class Blindness:
    """A vision tower that cannot be used here: `reason` says why. The text model is fine."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def _digest(inputs: Mapping[str, torch.Tensor], layout: Sequence[int]) -> bytes:
    """SHA-256 over everything that decides what the model sees."""
    found = hashlib.sha256(struct.pack(f"<{len(layout)}q", *layout))
    for name, tensor in sorted(inputs.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return found.digest()
