"""Texts to be embedded, and the vectors that servers answer with. No I/O.

In: texts and options; then the JSON of `/embedding` of December 2023's server, of today's, or ours.
Out: bodies for batches of texts; one vector for each text, or an error that says what is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from libertai_llm.checks import check_integer, check_json_object, check_text
from libertai_llm.errors import (
    APIError,
    InvalidOption,
    InvalidReply,
    NotSupported,
    SlotUnavailable,
)

MAX_BATCH = 2048  # what our own server takes in one request
MAX_DIMENSIONS = 1 << 20
INPUT_TYPES = ("query", "document")

Vector = list[float]


def check_texts(texts: Any) -> list[str]:
    """A list of strings. Raises `InvalidOption`."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise InvalidOption("`texts` must be a list of strings", field="texts")
    return [check_text(f"texts[{index}]", each) for index, each in enumerate(texts)]


def embedding_options(
    input_type: str | None, truncate: bool, dimensions: int | None, extra_body: Any
) -> dict[str, Any]:
    """The fields of a body beside the texts; what is not asked for is not sent."""
    options: dict[str, Any] = {}
    if input_type is not None:
        if input_type not in INPUT_TYPES:
            raise InvalidOption("`input_type` must be 'query' or 'document'", field="input_type")
        options["input_type"] = input_type
    if truncate:
        options["truncate"] = True
    if dimensions is not None:
        options["dimensions"] = check_integer("dimensions", dimensions, 1, MAX_DIMENSIONS)
    if extra_body is not None:
        options |= check_json_object("extra_body", extra_body)
    return options


def batches_of(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Groups of at most `size` texts, in their order."""
    size = check_integer("batch_size", size, 1, MAX_BATCH)
    for start in range(0, len(texts), size):
        yield texts[start : start + size]


@contextmanager
def naming_texts(start: int) -> Iterator[None]:
    """Have a refusal of a batch name the caller's texts, the first of which is number `start`."""
    try:
        yield
    except APIError as error:
        error.message = _PLACE.sub(
            lambda found: f"`texts[{start + int(found[1] or 0)}]`", error.message
        )
        raise


_PLACE = re.compile(r"`content(?:\[(\d+)\])?`")


def read_vectors(reply: Any, count: int) -> list[Vector]:
    """The vectors of an answer, in the order of the texts.

    NOTE: the server of 2023 answers with status 200 whatever happens: zeros if it was started
    without `--embedding`, an object about something else for a text without tokens, and nulls ever
    after somebody has sent it an array of texts.
    """
    if isinstance(reply, Mapping) and isinstance(reply.get("data"), list):
        reply = reply["data"]
    if isinstance(reply, Mapping):
        _refuse_other_answers(reply)
        reply = [reply]
    if not isinstance(reply, list) or len(reply) != count:
        raise InvalidReply(f"expected {count} embeddings")
    vectors: list[Vector | None] = [None] * count
    for place, item in enumerate(reply):
        index = item.get("index", place) if isinstance(item, Mapping) else None
        if not isinstance(index, int) or not 0 <= index < count or vectors[index] is not None:
            raise InvalidReply("the embeddings are not numbered one by one")
        vectors[index] = _vector(item.get("embedding"))
    return [vector for vector in vectors if vector is not None]


def _refuse_other_answers(reply: Mapping[str, Any]) -> None:
    if reply.get("content") == "slot unavailable":
        raise SlotUnavailable("every slot of the server is busy")
    if "embedding" not in reply:
        raise InvalidReply("no embedding in the answer (has the text any token?)")


def _vector(value: Any) -> Vector:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]  # today's server has a list of vectors for each text
    if not isinstance(value, list) or not value or isinstance(value[0], list):
        raise InvalidReply("an embedding is no list of numbers (does the server pool them?)")
    if not _are_numbers(value):
        raise InvalidReply("the server's embeddings are not numbers: it has to be started again")
    if not any(value):
        raise NotSupported("the server embeds nothing: it needs `--embedding`", status=501)
    return value


def _are_numbers(values: list[Any]) -> bool:
    try:
        return math.isfinite(math.fsum(values))
    except (TypeError, ValueError, OverflowError):
        return False
