"""Images in LangChain's messages.

In: LangChain's image content blocks. Out: the images in base64. Nothing is fetched: an image that
is somewhere else is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

IMAGE_KINDS = frozenset({"image", "image_url", "input_image"})
_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)


def base64_of(block: Mapping[str, Any]) -> str:
    """The image of an image block.

    Raises `ValueError` for one that is not in the message itself, naming its address.
    """
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
