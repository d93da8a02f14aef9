"""Bytes to pictures: four formats, upright, within limits that are checked before decoding."""

from __future__ import annotations

import struct
import time
import zlib

import pytest
from PIL import Image

from libertai_engine.model.images import UnusableImage
from libertai_engine.model.picture import MAX_IMAGE_BYTES, read_picture
from tests.fake_vision import encode, picture


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG whose header may promise more than it holds."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "JPEG"])
def test_four_formats(kind: str) -> None:
    """Each gives its size in RGB; the lossless ones give every pixel."""
    shown = Image.new("RGB", (9, 6), (255, 0, 0))
    found = read_picture(encode(shown, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert (found.mode, found.size) == ("RGB", (9, 6))
    if kind != "JPEG":
        assert found.tobytes() == shown.tobytes()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    """Grey, palettes, transparency and print colours alike."""
    shown = Image.new(mode, (8, 8))
    assert read_picture(encode(shown, "JPEG" if mode == "CMYK" else "PNG")).mode == "RGB"


def test_only_the_first_frame_counts() -> None:
    """Of a moving picture, however long."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    found = read_picture(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert found.tobytes() == frames[0].tobytes()


def test_a_picture_stands_upright() -> None:
    """Cameras write the turn into a mark instead of turning the pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert read_picture(encode(picture(1, 8, 4), exif=exif.tobytes())).size == (4, 8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a whole"),
        (b"hello", "not a whole"),
        (b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>', "not a whole"),
        (b"http://127.0.0.1/cat.png", "not a whole"),
        (b"file:///etc/hostname", "not a whole"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a whole"),
        (encode(picture(1), "TIFF"), "not a whole"),
        (encode(picture(1), "BMP"), "not a whole"),
        (encode(picture(1), "JPEG")[:300], "not a whole"),
        (encode(picture(1), "PNG")[:-40], "not a whole"),
        (encode(picture(1), "WEBP")[:200], "not a whole"),
        (png(40, 50), "not a whole"),
        (png(65535, 65535), "more than 20000000 pixels"),
        (png(12000, 12000), "more than 20000000 pixels"),
        (png(5000, 4001), "more than 20000000 pixels"),
        (encode(picture(1, 1, 1)), "smaller than 4 by 4"),
        (encode(picture(1, 3, 9)), "smaller than 4 by 4"),
        (encode(picture(1, 204, 4)), "50 times as long"),
        (b"\0" * (MAX_IMAGE_BYTES + 1), "larger than 20000000 bytes"),
    ],
    ids=lambda value: value[:16] if isinstance(value, bytes) else value.replace(" ", "-"),
)
def test_what_is_refused(data: bytes, message: str) -> None:
    """At once, and without a word of the decoder's."""
    started = time.monotonic()
    with pytest.raises(UnusableImage, match=message) as refused:
        read_picture(data)
    assert time.monotonic() - started < 1
    assert "0x" not in str(refused.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_broken_bytes_never_do_more(kind: str) -> None:
    """Whatever byte is broken, there is a picture or the one error."""
    good = encode(picture(2, 12, 8), kind)
    for place in range(0, len(good), 3):
        broken = bytearray(good)
        broken[place] ^= 0xFF
        try:
            assert read_picture(bytes(broken)).mode == "RGB"
        except UnusableImage:
            continue
