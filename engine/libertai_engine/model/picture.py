"""Bytes that somebody sent to a picture in memory, within limits.

In: a PNG, JPEG, WebP or GIF file. Out: an upright RGB picture of its first frame. No other format
is tried, no file is opened and no address is followed, whatever the bytes say.
"""

from __future__ import annotations

import io

from PIL import Image, ImageOps

from libertai_engine.model.images import UnusableImage

MAX_IMAGE_BYTES = 20_000_000
MAX_PIXELS = 20_000_000
MIN_SIDE = 4  # with fewer pixels than colours, image processors cannot tell rows from channels
MAX_RATIO = 50  # a strip would become huge where processors scale the shorter side up
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


def read_picture(data: bytes) -> Image.Image:
    """The picture in `data`. Sizes are checked on the header, before any pixel is decoded.

    Raises `UnusableImage`; its message holds nothing of Pillow's, which may tell addresses.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise UnusableImage(f"is larger than {MAX_IMAGE_BYTES} bytes")
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(*picture.size)
        # As transformers loads pictures: upright by their EXIF mark, transparency dropped.
        return ImageOps.exif_transpose(picture).convert("RGB")
    except UnusableImage:
        raise
    # NOTE: Pillow's own limit is far above ours, but it is met first, while the file is opened.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnusableImage(_TOO_MANY_PIXELS) from None
    # NOTE: a decoder runs over foreign bytes, so any exception may come out of it.
    except Exception:
        raise UnusableImage("is not a whole PNG, JPEG, WebP or GIF image") from None


_TOO_MANY_PIXELS = f"has more than {MAX_PIXELS} pixels"


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnusableImage(_TOO_MANY_PIXELS)
    if min(width, height) < MIN_SIDE:
        raise UnusableImage(f"is smaller than {MIN_SIDE} by {MIN_SIDE} pixels")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise UnusableImage(f"is more than {MAX_RATIO} times as long as wide")
