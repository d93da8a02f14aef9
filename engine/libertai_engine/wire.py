"""The llama-like API's words: JSON bodies to requests, deltas to JSON objects. Pure functions.

In: a decoded JSON object (`/completion`'s options), or a `Delta`. Out: a `CompletionCall`, or the
dict that goes on the wire. This is the only place where wire names such as `n_predict` are used.
Coercion follows the server of December 2023 (numbers and booleans convert into each other, null is
the default); everything else is an `InvalidRequest` naming the field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from libertai_engine.errors import InvalidRequest, NotSupported
from libertai_engine.sampling.sampler import SampledToken
from libertai_engine.sampling_params import INT32_MAX, SamplingParams
from libertai_engine.sequence import Delta, Finish, FinishReason, Request
from libertai_engine.text.tokenizer import Tokenizer

MAX_STOP_WORDS = 64
MAX_STOP_BYTES = 1024
MAX_LOGIT_BIAS = 4096
RANDOM_SEED = -1
UINT32_MAX = 2**32 - 1

Prompt = str | list[str | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionCall:
    """A checked `/completion` body: the request, and what only the answer needs."""

    request: Request
    prompt: Any
    is_stream: bool
    settings: Mapping[str, Any] = field(repr=False)


def _wrong(name: str, expected: str) -> InvalidRequest:
    return InvalidRequest(f"`{name}` must be {expected}", field=name)


def to_float(name: str, value: Any) -> float:
    """A finite number; booleans are 1 and 0."""
    try:
        number = float(value) if isinstance(value, (bool, int, float)) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _wrong(name, "a finite number")
    return number


def to_int(name: str, value: Any, low: int = -INT32_MAX - 1, high: int = INT32_MAX) -> int:
    """An integer; fractions are cut off towards zero, booleans are 1 and 0."""
    number = value if isinstance(value, int) else math.trunc(to_float(name, value))
    if not low <= number <= high:
        raise _wrong(name, f"an integer between {low} and {high}")
    return int(number)


def to_bool(name: str, value: Any) -> bool:
    """A boolean; numbers are true unless zero."""
    return bool(to_float(name, value))


def to_str(name: str, value: Any) -> str:
    """A string that is valid Unicode."""
    if not isinstance(value, str):
        raise _wrong(name, "a string")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise _wrong(name, "valid Unicode, without lone surrogates")
    return value


def _to_seed(name: str, value: Any) -> int | None:
    seed = to_int(name, value, RANDOM_SEED, UINT32_MAX)
    return None if seed in (RANDOM_SEED, UINT32_MAX) else seed


# Wire name -> (name in SamplingParams, conversion).
_SAMPLING: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "temperature": ("temperature", to_float),
    "top_k": ("top_k", to_int),
    "top_p": ("top_p", to_float),
    "min_p": ("min_p", to_float),
    "tfs_z": ("tfs_z", to_float),
    "typical_p": ("typical_p", to_float),
    "repeat_penalty": ("repeat_penalty", to_float),
    "repeat_last_n": ("penalty_window", to_int),
    "penalize_nl": ("penalize_newline", to_bool),
    "presence_penalty": ("presence_penalty", to_float),
    "frequency_penalty": ("frequency_penalty", to_float),
    "mirostat": ("mirostat", to_int),
    "mirostat_tau": ("mirostat_tau", to_float),
    "mirostat_eta": ("mirostat_eta", to_float),
    "seed": ("seed", _to_seed),
    "ignore_eos": ("ignore_eos", to_bool),
    "n_probs": ("num_probs", to_int),
}
_WIRE_NAMES = {inner: wire for wire, (inner, _) in _SAMPLING.items()}


class Body:
    """A JSON object whose fields are read with a conversion and a default. Null is the default."""

    def __init__(self, fields: Any) -> None:
        if not isinstance(fields, Mapping):
            raise InvalidRequest("the request must be a JSON object")
        self.fields = fields

    def get(self, name: str, convert: Callable[[str, Any], Any], default: Any) -> Any:
        """The converted field, or `default` if it is missing or null."""
        value = self.fields.get(name)
        return default if value is None else convert(name, value)


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
    is_stream = body.get("stream", to_bool, False)
    return CompletionCall(
        request=request,
        prompt=body.fields["prompt"],
        is_stream=is_stream,
        settings=_settings(request, is_stream, n_keep=body.get("n_keep", to_int, 0)),
    )


def _refuse_unsupported(body: Body) -> None:
    for name in ("grammar", "json_schema", "system_prompt"):
        if body.fields.get(name):
            raise NotSupported(f"`{name}` is not supported by this server")


def _parse_sampling(body: Body, tokenizer: Tokenizer) -> SamplingParams:
    given = {
        inner: convert(wire, body.fields[wire])
        for wire, (inner, convert) in _SAMPLING.items()
        if body.fields.get(wire) is not None
    }
    bias = body.get("logit_bias", lambda name, value: _to_bias(name, value, tokenizer), ())
    try:
        return SamplingParams(**given, logit_bias=bias)
    except InvalidRequest as error:
        inner = error.field or ""
        wire = _WIRE_NAMES.get(inner, inner)
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
        raise _wrong(name, "a string or an array of strings")
    words = [value] if isinstance(value, str) else [word for word in value if word is not None]
    if len(words) > MAX_STOP_WORDS:
        raise _wrong(name, f"at most {MAX_STOP_WORDS} strings")
    words = [to_str(name, word) for word in words]
    if any(len(word.encode()) > MAX_STOP_BYTES for word in words):
        raise _wrong(name, f"strings of at most {MAX_STOP_BYTES} bytes")
    return tuple(word for word in words if word)


def _to_bias(name: str, value: Any, tokenizer: Tokenizer) -> tuple[tuple[int, float], ...]:
    """`[[id or text, number or false], …]`, or an object `{"id or text": number or false}`."""
    if isinstance(value, Mapping):
        pairs = [[int(key) if key.isdecimal() else key, bias] for key, bias in value.items()]
    else:
        pairs = value
    if not isinstance(pairs, list) or len(pairs) > MAX_LOGIT_BIAS:
        raise _wrong(name, f"an array of at most {MAX_LOGIT_BIAS} pairs")
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
    return _wrong("prompt", "a string or an array of strings and token ids")


def _settings(request: Request, is_stream: bool, n_keep: int) -> dict[str, Any]:
    sampling = request.sampling
    settings: dict[str, Any] = {
        wire: getattr(sampling, inner) for wire, (inner, _) in _SAMPLING.items()
    }
    return settings | {
        # The server of 2023 said `temp`, later ones say `temperature`.
        "temp": sampling.temperature,
        "logit_bias": [
            [token_id, bias if math.isfinite(bias) else None]
            for token_id, bias in sampling.logit_bias
        ],
        "stop": list(request.stop),
        "n_predict": -1 if request.max_tokens is None else request.max_tokens,
        "n_keep": n_keep,
        "stream": is_stream,
        "grammar": "",
    }


def format_chunk(delta: Delta, call: CompletionCall, tokenizer: Tokenizer) -> dict[str, Any]:
    """One event of a stream that goes on."""
    chunk = {"content": delta.text, "multimodal": False, "slot_id": delta.slot, "stop": False}
    return chunk | _probabilities(delta.tokens, call, tokenizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A finished sequence: its text, the tokens that made it, and how it ended."""

    text: str
    tokens: Sequence[SampledToken]
    finish: Finish


def format_result(
    answer: Answer, call: CompletionCall, tokenizer: Tokenizer, *, model: str, context_size: int
) -> dict[str, Any]:
    """The whole answer (the last event of a stream: what is new in it)."""
    finish = answer.finish
    result = {
        "content": answer.text,
        "generation_settings": {
            **call.settings,
            "seed": finish.seed,
            "model": model,
            "n_ctx": context_size,
        },
        "model": model,
        "prompt": call.prompt,
        "slot_id": finish.slot,
        "id_slot": finish.slot,
        "stop": True,
        "stop_type": finish.reason.value,
        "stopped_eos": finish.reason is FinishReason.EOS,
        "stopped_limit": finish.reason is FinishReason.LIMIT,
        "stopped_word": finish.reason is FinishReason.WORD,
        "stopping_word": finish.stop_word,
        "timings": _timings(finish),
        "tokens_cached": finish.num_in_cache,
        "tokens_evaluated": finish.num_prompt_tokens,
        "tokens_predicted": finish.num_generated,
        "truncated": finish.truncated,
    }
    return result | _probabilities(answer.tokens, call, tokenizer)


def _timings(finish: Finish) -> dict[str, Any]:
    num_evaluated = finish.num_prompt_tokens - finish.num_cached
    return {
        "cache_n": finish.num_cached,
        **_phase("prompt", num_evaluated, finish.timings.prompt_ms),
        **_phase("predicted", finish.num_generated, finish.timings.predicted_ms),
    }


def _phase(name: str, count: int, milliseconds: float) -> dict[str, Any]:
    return {
        f"{name}_n": count,
        f"{name}_ms": milliseconds,
        f"{name}_per_token_ms": milliseconds / count if count else 0.0,
        f"{name}_per_second": 1e3 * count / milliseconds if milliseconds > 0 else 0.0,
    }


def _probabilities(
    tokens: Sequence[SampledToken], call: CompletionCall, tokenizer: Tokenizer
) -> dict[str, Any]:
    """One entry for each token of `content`, if probabilities were asked for."""
    if not call.request.sampling.num_probs:
        return {}
    entries = [
        {
            "content": token_text(token.token_id, tokenizer),
            "probs": [
                {"tok_str": token_text(token_id, tokenizer), "prob": probability}
                for token_id, probability in token.probs
            ],
        }
        for token in tokens
    ]
    return {"completion_probabilities": entries}


def token_text(token_id: int, tokenizer: Tokenizer) -> str:
    r"""A token as text; a lone byte that is no character reads `byte: \xNN`."""
    piece = tokenizer.token_bytes(token_id)
    if len(piece) == 1 and piece[0] >= 0x80:
        return f"byte: \\x{piece[0]:02x}"
    return piece.decode(errors="replace")
