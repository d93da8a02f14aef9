"""Bodies of `/embedding` and `/v1/embeddings` to rows of token ids, and vectors to answers.

In: a decoded JSON object. Out: an `EmbeddingCall`, or an error naming the field and the place in
it; then the objects of the answer. `/embedding` answers one text as the server of December 2023
did and several as today's does.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from libertai_engine.embeddings import Embedder
from libertai_engine.errors import ContextOverflow, InvalidRequest
from libertai_engine.model.pooling import normalize
from libertai_engine.wire.coerce import Body, to_bool, to_int, to_str, wrong

MAX_INPUTS = 2048
MAX_NORM = 100
EUCLID = 2
INPUT_TYPES = ("query", "document")


class InputTooLong(ContextOverflow):
    """One of the texts has more tokens than the model takes."""

    def __init__(self, where: str, num_tokens: int, max_tokens: int) -> None:
        super().__init__(num_tokens, max_tokens)
        self.field = where
        self.args = (
            f"`{where}` has {num_tokens} tokens and exceeds the available context size "
            f"({max_tokens} tokens): make it shorter, or send `truncate` to have it cut",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingCall:
    """A checked body.

    Invariant: every row has 1 to `max_tokens` ids of the vocabulary. `is_list` if the texts came in
    an array; `is_base64` if vectors are to be written as bytes. `norm` is `embd_normalize`;
    `num_dimensions` None: all.
    """

    rows: tuple[Sequence[int], ...]
    is_list: bool
    is_base64: bool
    norm: int
    num_dimensions: int | None

    @property
    def num_tokens(self) -> int:
        """Tokens of all texts, the model's marks included."""
        return sum(map(len, self.rows))

    def finish(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors `[row, dimension]` cut and scaled as it was asked for."""
        return normalize(vectors[:, : self.num_dimensions], self.norm)


def parse_embedding(fields: Any, embedder: Embedder, names: Sequence[str]) -> EmbeddingCall:
    """Check a body; the texts are in the first field of `names` that is there.

    Raises `InvalidRequest` naming the field, `InputTooLong` naming the text.
    """
    body = Body(fields)
    name = next((each for each in names if body.fields.get(each) is not None), None)
    if name is None:
        asked = " or ".join(f"`{each}`" for each in names)
        raise InvalidRequest(f"{asked} is required", field=names[-1])
    inputs, is_list = _split(name, body.fields[name])
    truncate = body.get("truncate", to_bool, False)
    prompt = body.get("input_type", _to_prompt(embedder), embedder.model.recipe.prompt)
    return EmbeddingCall(
        rows=tuple(_encode(inputs, prompt, embedder, truncate=truncate)),
        is_list=is_list,
        is_base64=body.get("encoding_format", _to_format, "float") == "base64",
        norm=body.get(
            "embd_normalize", _to_norm, EUCLID if embedder.model.recipe.normalize else -1
        ),
        num_dimensions=body.get("dimensions", _to_dimensions(embedder), None),
    )


def _split(name: str, given: Any) -> tuple[dict[str, Any], bool]:
    """Each text or array of ids under its place, and whether they came in an array."""
    if isinstance(given, str) or (isinstance(given, list) and any(map(_is_number, given))):
        return {name: given}, False
    if not isinstance(given, list):
        raise wrong(name, "a string, an array of token ids, or an array of these")
    if not given:
        raise _empty(name)
    if len(given) > MAX_INPUTS:
        raise wrong(name, f"at most {MAX_INPUTS} texts")
    return {f"{name}[{index}]": each for index, each in enumerate(given)}, True


def _encode(
    inputs: Mapping[str, Any], prompt: str, embedder: Embedder, *, truncate: bool
) -> list[Sequence[int]]:
    """Rows of token ids in the order of the inputs. Texts are tokenised together."""
    texts = {name: prompt + to_str(name, each) for name, each in inputs.items() if _is_text(each)}
    encoded = embedder.tokenizer.encode(list(texts.values()), truncate=truncate)
    found: dict[str, Sequence[int]] = dict(zip(texts, encoded, strict=True))
    rows = []
    for name, each in inputs.items():
        row = found[name] if name in found else _ids(name, each, embedder, truncate=truncate)
        if not row:
            raise _empty(name)
        if len(row) > embedder.max_tokens:
            raise InputTooLong(name, len(row), embedder.max_tokens)
        if max(row) >= embedder.model.vocab_size:
            raise InvalidRequest(f"`{name}` has a token that the model does not know", field=name)
        rows.append(row)
    return rows


def _ids(name: str, given: Any, embedder: Embedder, *, truncate: bool) -> list[int]:
    """An array of token ids, and texts between them, as it stands: no marks are added."""
    if not isinstance(given, list):
        raise wrong(name, "a string or an array of token ids")
    high = embedder.model.vocab_size - 1
    ids: list[int] = []
    for each in given:
        if _is_number(each):
            ids.append(to_int(name, each, 0, high))
        else:
            ids += embedder.tokenizer.encode_piece(to_str(name, each))
    return ids[: embedder.max_tokens] if truncate else ids


def _empty(name: str) -> InvalidRequest:
    return InvalidRequest(f"`{name}` must not be empty", field=name)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _to_format(name: str, value: Any) -> str:
    if value not in ("float", "base64"):
        raise wrong(name, "`float` or `base64`")
    return str(value)


def _to_norm(name: str, value: Any) -> int:
    return to_int(name, value, -1, MAX_NORM)


def _to_prompt(embedder: Embedder) -> Any:
    """`input_type` to what the model wants in front of such texts, if it wants something."""
    recipe = embedder.model.recipe

    def convert(name: str, value: Any) -> str:
        if value not in INPUT_TYPES:
            raise wrong(name, "`query` or `document`")
        return recipe.query_prompt if value == "query" else recipe.document_prompt

    return convert


def _to_dimensions(embedder: Embedder) -> Any:
    return lambda name, value: to_int(name, value, 1, embedder.num_dimensions)


def format_embedding(vectors: torch.Tensor, call: EmbeddingCall, *, as_list: bool) -> Any:
    """The answer of `/embedding`: `{"embedding": […]}`, or an array of numbered objects."""
    if not (call.is_list or as_list):
        return {"embedding": vectors[0].tolist()}
    # NOTE: today's server has a vector for each token if it does not pool, hence one array more.
    return [{"index": index, "embedding": [row.tolist()]} for index, row in enumerate(vectors)]


def format_openai(vectors: torch.Tensor, call: EmbeddingCall, *, model: str) -> dict[str, Any]:
    """The answer of `/v1/embeddings`."""
    write = _base64 if call.is_base64 else torch.Tensor.tolist
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": write(row)}
            for index, row in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": call.num_tokens, "total_tokens": call.num_tokens},
    }


def embedding_props(embedder: Embedder) -> dict[str, Any]:
    """What a client may want to know of the embedding model."""
    recipe = embedder.model.recipe
    return {
        "model_alias": embedder.name,
        "n_ctx": embedder.max_tokens,
        "n_embd": embedder.num_dimensions,
        "pooling": ", ".join(recipe.pooling),
        "normalize": recipe.normalize,
        "query_prompt": recipe.query_prompt,
        "document_prompt": recipe.document_prompt,
    }


def _base64(row: torch.Tensor) -> str:
    """Little-endian 32-bit floats."""
    return base64.b64encode(row.numpy().astype("<f4").tobytes()).decode()
