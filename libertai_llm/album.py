"""Images in messages: numbered as they appear, shown in the prompt by their number.

In: images in base64. Out: tags for the text, and `image_data` for the server.
"""

from __future__ import annotations

from typing import Any


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

    def tag(self, data: str) -> str:
        """The text that shows an image, which is given in base64."""
        return f"[img-{self._numbers.setdefault(data, len(self._numbers))}]"
