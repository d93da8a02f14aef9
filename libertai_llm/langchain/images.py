"""Images in messages: numbered as they appear, shown in the prompt by their number.

In: LangChain's image content blocks. Out: tags for the text, and `image_data` for the server.
Nothing is fetched: an image that is somewhere else is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

IMAGE_KINDS = frozenset({"image", "image_url", "input_image"})
_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)


class Album:
    """The images of one conversation.

    Invariant: they are numbered in order of first appearance, and equal images share a number, so
    a later turn shows the images of the turns before under the numbers they had.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    @property
    def image_data(self) -> list[dict[str, Any]]:
        """What goes with the prompt: `{"data": base64, "id": number}`."""
        return [{"data": data, "id": number} for data, number in self._numbers.items()]

    def tag(self, block: Mapping[str, Any]) -> str:
        """The text that shows an image block's image.

        Raises `ValueError` for an image that is not in the message itself, naming its address.
        """
        number = self._numbers.setdefault(_base64_of(block), len(self._numbers))
        return f"[img-{number}]"


def _base64_of(block: Mapping[str, Any]) -> str:
    if block.get("base64"):
        return str(block["base64"])
    address = block.get("image_url") or block.get("url") or block.get("file_id")
    if isinstance(address, Mapping):
        address = address.get("url")
    head = _DATA_URI.match(address) if isinstance(address, str) else None
    if head is None:
        shown = repr(address if address is None else str(address)[:100])
        raise ValueError(
            f"the image {shown} is not in its message: images are not fetched, "
            "give them in base64 (a `data:image/…;base64,` address or an image block)"
        )
    return str(address)[head.end() :]
