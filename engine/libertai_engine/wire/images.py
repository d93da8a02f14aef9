"""The `image_data` field, and the tags `[img-N]` that show its images in a prompt.

In: the JSON value and the prompts of a body. Out: a `Gallery`, with which prompts are encoded. No
image is decoded before everything else about it is known to be right, and none is ever fetched.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from libertai_engine.errors import ContextOverflow, InvalidRequest, NotSupported
from libertai_engine.model.images import Blindness, ImageReader, PromptImage, UnusableImage
from libertai_engine.sampling_params import INT32_MAX
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.wire.coerce import Body, to_int, wrong

FIELD = "image_data"
MAX_IMAGES = 8
MAX_SHOWN_CONTEXTS = 8  # a prompt that shows more contexts of images is not even written out
MAX_BASE64 = 28_000_000  # 20 MB and a little, before decoding

_TAG = re.compile(r"\[img-([0-9]{1,10})\]")
_OPEN = "[img-"


@dataclass(frozen=True, slots=True)
class Gallery:
    """The images of one body by their numbers, and the token that stands for an image.

    Invariant: every tag in the body's prompts is well formed and names one of the images.
    """

    reader: ImageReader
    by_number: Mapping[int, PromptImage]

    @property
    def images(self) -> tuple[PromptImage, ...]:
        """All of them."""
        return tuple(self.by_number.values())

    def encode(self, text: str, tokenizer: Tokenizer, *, add_special: bool) -> list[int]:
        """Token ids of a text in which every tag is an image.

        The words around an image become the tokens that they are around the model's own image
        token. That token's text, written by somebody, stays a token of text.
        """
        words, images = self._split(text)
        token = self.reader.placeholder
        token_ids = tokenizer.encode(token.join(words), add_special=add_special)
        places = list(_interleave([each.count(token) for each in words], images))
        if token_ids.count(self.reader.placeholder_id) != len(places):
            raise InvalidRequest(f"`{FIELD}`: the prompt hides a tag in `{token}`", field=FIELD)
        following = iter(places)
        result: list[int] = []
        for each in token_ids:
            image = next(following) if each == self.reader.placeholder_id else None
            result.extend(image.token_ids if image else [each])
        return result

    def _split(self, text: str) -> tuple[list[str], list[PromptImage]]:
        """The words around the tags, and the images between them."""
        parts = _TAG.split(text)
        return parts[::2], [self.by_number[int(number)] for number in parts[1::2]]


def parse_images(
    body: Body, prompts: Sequence[Any], vision: ImageReader | Blindness | None, context_size: int
) -> Gallery | None:
    """The images of a body; None if there is none, or the model is one of text alone.

    Raises `InvalidRequest` naming the field, `NotSupported` for a model whose vision tower cannot
    be used, `ContextOverflow` for images beyond all measure.
    """
    value = body.fields.get(FIELD)
    if value is None or vision is None:
        return None
    if isinstance(vision, Blindness):
        if not value:
            return None
        raise NotSupported(f"`{FIELD}`: images of this model are not supported: {vision.reason}")
    encoded = _parse_list(value)
    tags = [_tags_of(prompt) for prompt in prompts]
    _check_tags({number for numbers in tags for number in numbers}, set(encoded))
    by_number = {number: _read(*each, vision) for number, each in encoded.items()}
    for numbers in tags:
        count = sum(len(by_number[number].token_ids) for number in numbers)
        if count > MAX_SHOWN_CONTEXTS * context_size:
            raise ContextOverflow(count, context_size)
    return Gallery(vision, by_number)


def cuts_image(
    token_ids: Sequence[int], images: Sequence[PromptImage], start: int, end: int
) -> bool:
    """True if some of an image, or of the text that belongs to it, is in `[start, end)`."""
    owners = {image.vector_ids[0]: image for image in images}
    for place, each in enumerate(token_ids):
        image = owners.get(each)
        if image is not None:
            first = place - image.token_ids.index(each)
            if first < end and start < first + len(image.token_ids):
                return True
    return False


def _parse_list(value: Any) -> dict[int, tuple[str, str]]:
    """Number to the name and the base64 of each image."""
    if not isinstance(value, list):
        raise wrong(FIELD, "an array of objects with `data` and `id`")
    if len(value) > MAX_IMAGES:
        raise wrong(FIELD, f"at most {MAX_IMAGES} images")
    found: dict[int, tuple[str, str]] = {}
    for index, item in enumerate(value):
        name = f"{FIELD}[{index}]"
        if not isinstance(item, Mapping):
            raise InvalidRequest(f"`{name}` must be an object with `data` and `id`", field=FIELD)
        number = item.get("id")
        number = index if number is None else to_int(f"{name}.id", number, 0, INT32_MAX)
        if number in found:
            raise InvalidRequest(f"`{name}.id` {number} is given twice", field=FIELD)
        if not isinstance(item.get("data"), str):
            raise InvalidRequest(f"`{name}.data` must be a string", field=FIELD)
        found[number] = (f"{name}.data", item["data"])
    return found


def _tags_of(prompt: Any) -> list[int]:
    """Numbers of the tags in one prompt, in order."""
    pieces = prompt if isinstance(prompt, list) else [prompt]
    return [number for piece in pieces if isinstance(piece, str) for number in _tags_in(piece)]


def _tags_in(text: str) -> list[int]:
    numbers = [int(number) for number in _TAG.findall(text)]
    if text.count(_OPEN) != len(numbers):
        raise InvalidRequest(
            f"`{FIELD}`: the prompt has a broken tag; an image is shown by `[img-N]`", field=FIELD
        )
    return numbers


def _check_tags(shown: set[int], given: set[int]) -> None:
    if unknown := sorted(shown - given):
        raise InvalidRequest(f"`{FIELD}` has no image with id {unknown[0]}", field=FIELD)
    if idle := sorted(given - shown):
        raise InvalidRequest(
            f"`{FIELD}`: no `[img-{idle[0]}]` in the prompt shows the image with id {idle[0]}",
            field=FIELD,
        )


def _read(name: str, text: str, reader: ImageReader) -> PromptImage:
    if len(text) > MAX_BASE64:
        raise InvalidRequest(f"`{name}` is too large", field=FIELD)
    try:
        return reader.read(base64.b64decode(text, validate=True))
    except ValueError:
        raise InvalidRequest(f"`{name}` must be an image file in base64", field=FIELD) from None
    except UnusableImage as error:
        raise InvalidRequest(f"`{name}` {error}", field=FIELD) from None


def _interleave(
    literal: Sequence[int], images: Sequence[PromptImage]
) -> Iterator[PromptImage | None]:
    """What each image token of a text is: None where its text was written out, else an image."""
    for index, count in enumerate(literal):
        yield from [None] * count
        if index < len(images):
            yield images[index]
