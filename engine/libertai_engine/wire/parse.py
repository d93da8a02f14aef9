"""JSON bodies to requests. Pure functions.

In: a decoded JSON object with `/completion`'s options. Out: a `CompletionCall`, or an
`InvalidRequest` or `NotSupported` naming the field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from libertai_engine.errors import InvalidRequest, NotSupported
from libertai_engine.sampling_params import SamplingParams
from libertai_engine.sequence import Request
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.wire.coerce import Body, to_bool, to_float, to_int, to_str, wrong
from libertai_engine.wire.fields import SAMPLING, WIRE_NAMES

MAX_STOP_WORDS = 64
MAX_STOP_BYTES = 1024
MAX_LOGIT_BIAS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionCall:
    """A checked `/completion` body: the request, and what only the answer needs."""

    request: Request
    prompt: Any
    is_stream: bool
    n_keep: int


def parse_completion(fields: Any, tokenizer: Tokenizer, *, num_slots: int) -> CompletionCall:
    """Check a `/completion` body. Raises `InvalidRequest` or `NotSupported` naming the field."""
    body = Body(fields)
    _refuse_unsupported(body)
    if body.fields.get("prompt") is None:
        raise InvalidRequest('"prompt" is required', field="prompt")
    sampling = _parse_sampling(body, tokenizer)
    max_tokens = body.get("n_predict", lambda name, value: to_int(name, value, low=-1), -1)
    request = Request(
        prompt_ids=tuple(encode_prompt(body.fields["prompt"], tokenizer)),
        sampling=sampling,
        max_tokens=None if max_tokens < 0 else max_tokens,
        stop=body.get("stop", _to_stop, ()),
        slot=_parse_slot(body, num_slots),
        cache_prompt=body.get("cache_prompt", to_bool, False),
    )
    return CompletionCall(
        request=request,
        prompt=body.fields["prompt"],
        is_stream=body.get("stream", to_bool, False),
        n_keep=body.get("n_keep", to_int, 0),
    )


def _refuse_unsupported(body: Body) -> None:
    for name in ("grammar", "json_schema", "system_prompt"):
        if body.fields.get(name):
            raise NotSupported(f"`{name}` is not supported by this server")


def _parse_sampling(body: Body, tokenizer: Tokenizer) -> SamplingParams:
    given = {
        inner: convert(wire, body.fields[wire])
        for wire, (inner, convert) in SAMPLING.items()
        if body.fields.get(wire) is not None
    }
    bias = body.get("logit_bias", lambda name, value: _to_bias(name, value, tokenizer), ())
    try:
        return SamplingParams(**given, logit_bias=bias)
    except InvalidRequest as error:
        inner = error.field or ""
        wire = WIRE_NAMES.get(inner, inner)
        raise InvalidRequest(str(error).replace(f"`{inner}`", f"`{wire}`"), field=wire) from None


def _parse_slot(body: Body, num_slots: int) -> int | None:
    """The asked slot: `slot_id`, or `id_slot` as later servers spell it."""
    for name in ("id_slot", "slot_id"):
        slot: int = body.get(name, lambda name, value: to_int(name, value, -1, num_slots - 1), -1)
        if slot >= 0:
            return slot
    return None


def _to_stop(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (str, list)):
        raise wrong(name, "a string or an array of strings")
    words = [value] if isinstance(value, str) else [word for word in value if word is not None]
    if len(words) > MAX_STOP_WORDS:
        raise wrong(name, f"at most {MAX_STOP_WORDS} strings")
    words = [to_str(name, word) for word in words]
    if any(len(word.encode()) > MAX_STOP_BYTES for word in words):
        raise wrong(name, f"strings of at most {MAX_STOP_BYTES} bytes")
    return tuple(word for word in words if word)


def _to_bias(name: str, value: Any, tokenizer: Tokenizer) -> tuple[tuple[int, float], ...]:
    """`[[id or text, number or false], …]`, or an object `{"id or text": number or false}`."""
    if isinstance(value, Mapping):
        pairs = [[int(key) if key.isdecimal() else key, bias] for key, bias in value.items()]
    else:
        pairs = value
    if not isinstance(pairs, list) or len(pairs) > MAX_LOGIT_BIAS:
        raise wrong(name, f"an array of at most {MAX_LOGIT_BIAS} pairs")
    result: list[tuple[int, float]] = []
    for pair in pairs:
        result.extend(_bias_of_pair(pair, tokenizer))
    return tuple(result)


def _bias_of_pair(pair: Any, tokenizer: Tokenizer) -> list[tuple[int, float]]:
    """Anything but an (id or text, number or false) pair is ignored, as the server always did."""
    if not isinstance(pair, list) or len(pair) != 2:
        return []
    key, bias = pair
    if bias is False:
        bias = -math.inf
    elif isinstance(bias, bool) or not isinstance(bias, (int, float)):
        return []
    else:
        bias = to_float("logit_bias", bias)
    if isinstance(key, str):
        return [(each, bias) for each in tokenizer.encode(key, add_special=False)]
    is_id = isinstance(key, int) and not isinstance(key, bool) and 0 <= key < tokenizer.vocab_size
    return [(key, bias)] if is_id else []


def encode_prompt(prompt: Any, tokenizer: Tokenizer) -> list[int]:
    """A string, or an array of strings and token ids that together are one prompt, to token ids.

    BOS goes in front if the model wants one and the prompt is or begins with a string.
    """
    if not isinstance(prompt, (str, list)):
        raise _wrong_prompt()
    pieces = [prompt] if isinstance(prompt, str) else prompt
    if _is_several(pieces):
        raise NotSupported("`prompt` with several prompts is not supported by this server")
    token_ids: list[int] = []
    for index, piece in enumerate(pieces):
        token_ids.extend(_encode_piece(piece, tokenizer, is_first=index == 0))
    if not token_ids:
        raise InvalidRequest("`prompt` must not be empty", field="prompt")
    return token_ids


def _is_several(pieces: Sequence[Any]) -> bool:
    all_strings = len(pieces) > 1 and all(isinstance(piece, str) for piece in pieces)
    return all_strings or any(isinstance(piece, list) for piece in pieces)


def _encode_piece(piece: Any, tokenizer: Tokenizer, *, is_first: bool) -> list[int]:
    if isinstance(piece, str):
        return tokenizer.encode(to_str("prompt", piece), add_special=is_first)
    if isinstance(piece, int) and not isinstance(piece, bool):
        return [to_int("prompt", piece, 0, tokenizer.vocab_size - 1)]
    raise _wrong_prompt()


def _wrong_prompt() -> InvalidRequest:
    return wrong("prompt", "a string or an array of strings and token ids")
