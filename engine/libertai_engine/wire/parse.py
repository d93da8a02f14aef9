"""JSON bodies to requests. Pure functions.

In: a decoded JSON object with `/completion`'s options. Out: a `CompletionCall`, or an
`InvalidRequest` or `NotSupported` naming the field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libertai_engine.errors import InvalidRequest
from libertai_engine.grammar.compiler import GrammarCompiler
from libertai_engine.model.images import Blindness, ImageReader
from libertai_engine.sampling_params import SamplingParams
from libertai_engine.sequence import Request
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.wire.coerce import Body, to_bool, to_float, to_int, to_str, wrong
from libertai_engine.wire.constraints import parse_grammar, wants_closing
from libertai_engine.wire.fields import SAMPLING, WIRE_NAMES
from libertai_engine.wire.images import parse_images
from libertai_engine.wire.prompts import FittedPrompt, encode_prompt, fit_prompt, split_prompts

MAX_STOP_WORDS = 64
MAX_WORD_BYTES = 1024  # of a stop word or a text with a bias
MAX_LOGIT_BIAS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request has to fit into: the engine's slots, the tokens one of them holds, and the
    tokens of the system prompt that stand before every prompt. `vision` reads its images and
    `grammars` compiles its grammar, if anything does."""

    num_slots: int
    context_size: int
    system_ids: tuple[int, ...] = ()
    vision: ImageReader | Blindness | None = None
    grammars: GrammarCompiler | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionCall:
    """A checked `/completion` body: its requests, and what only the answer needs.

    Invariant: `requests` and `prompts` go together, one of each unless `is_several`.
    """

    requests: tuple[Request, ...]
    prompts: tuple[Any, ...]
    is_several: bool
    is_stream: bool
    n_keep: int
    returns_tokens: bool = False
    is_multimodal: bool = False


def parse_completion(fields: Any, tokenizer: Tokenizer, limits: Limits) -> CompletionCall:
    """Check a `/completion` body. Raises `InvalidRequest` or `NotSupported` naming the field."""
    body = Body(fields)
    prompt = body.fields.get("prompt")
    if prompt is None:
        raise InvalidRequest('"prompt" is required', field="prompt")
    several = split_prompts(prompt)
    prompts = tuple([prompt] if several is None else several)
    options = _parse_options(body, tokenizer, limits)
    n_keep = body.get("n_keep", lambda name, value: to_int(name, value, low=-1), 0)
    gallery = parse_images(body, prompts, limits.vision, limits.context_size)
    options["images"] = gallery.images if gallery else ()
    is_start = not limits.system_ids
    encoded = [
        encode_prompt(each, tokenizer, is_start=is_start, gallery=gallery) for each in prompts
    ]
    return CompletionCall(
        requests=tuple(
            _request(options, index, _fit(token_ids, options, n_keep, tokenizer, limits))
            for index, token_ids in enumerate(encoded)
        ),
        prompts=prompts,
        is_several=several is not None,
        is_stream=body.get("stream", to_bool, False),
        n_keep=n_keep,
        returns_tokens=body.get("return_tokens", to_bool, False),
        is_multimodal=not isinstance(limits.vision, Blindness | None),
    )


def _parse_options(body: Body, tokenizer: Tokenizer, limits: Limits) -> dict[str, Any]:
    """What all prompts of a body have in common, by its name in `Request`."""
    max_tokens = body.get("n_predict", lambda name, value: to_int(name, value, low=-1), -1)
    grammar = parse_grammar(body, limits.grammars)
    return {
        "sampling": _parse_sampling(body, tokenizer),
        "max_tokens": 0 if _only_sets_system(body) else None if max_tokens < 0 else max_tokens,
        "stop": body.get("stop", _to_stop, ()),
        "slot": _parse_slot(body, limits.num_slots),
        "cache_prompt": body.get("cache_prompt", to_bool, False),
        "can_shift": body.get("context_shift", to_bool, True),
        "grammar": grammar,
        "closes_grammar": wants_closing(body, grammar, max_tokens),
        "max_draft": body.get(
            "speculative.n_max", lambda name, value: to_int(name, value, 0), None
        ),
    }


def _only_sets_system(body: Body) -> bool:
    """True for the way to set a system prompt that has always worked: beside an empty prompt."""
    return body.fields.get("system_prompt") is not None and body.fields.get("prompt") == ""


def _fit(
    token_ids: list[int],
    options: Mapping[str, Any],
    n_keep: int,
    tokenizer: Tokenizer,
    limits: Limits,
) -> FittedPrompt:
    """A prompt that fits behind the system prompt, if it may be cut; the engine refuses one that
    still does not."""
    system = limits.system_ids
    if not options["can_shift"]:
        return FittedPrompt((*system, *token_ids), len(system), is_cut=False)
    bos_id = tokenizer.bos_id if tokenizer.adds_bos else None
    room = limits.context_size - len(system)
    fitted = fit_prompt(token_ids, n_keep, room, bos_id, options["images"])
    return FittedPrompt(
        (*system, *fitted.token_ids), len(system) + fitted.num_keep, is_cut=fitted.is_cut
    )


def _request(options: Mapping[str, Any], index: int, prompt: FittedPrompt) -> Request:
    return Request(
        **options,
        index=index,
        prompt_ids=prompt.token_ids,
        num_keep=prompt.num_keep,
        is_cut=prompt.is_cut,
    )


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
    if any(len(word.encode()) > MAX_WORD_BYTES for word in words):
        raise wrong(name, f"strings of at most {MAX_WORD_BYTES} bytes")
    return tuple(word for word in words if word)


def _to_bias(name: str, value: Any, tokenizer: Tokenizer) -> tuple[tuple[int, float], ...]:
    """`[[id or text, number or false], …]`, or an object `{"id or text": number or false}`."""
    if isinstance(value, Mapping):
        pairs = [[_id_or_text(key), bias] for key, bias in value.items()]
    else:
        pairs = value
    if not isinstance(pairs, list) or len(pairs) > MAX_LOGIT_BIAS:
        raise wrong(name, f"an array of at most {MAX_LOGIT_BIAS} pairs")
    result: list[tuple[int, float]] = []
    for pair in pairs:
        result.extend(_bias_of_pair(pair, tokenizer))
        if len(result) > MAX_LOGIT_BIAS:
            raise wrong(name, f"texts of at most {MAX_LOGIT_BIAS} tokens together")
    return tuple(result)


def _id_or_text(key: str) -> int | str:
    # NOTE: Python refuses to read thousands of digits; ten are more than any id has.
    return int(key.lstrip("0")[:10] or "0") if key.isascii() and key.isdecimal() else key


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
        if len(to_str("logit_bias", key).encode()) > MAX_WORD_BYTES:
            raise wrong("logit_bias", f"texts of at most {MAX_WORD_BYTES} bytes")
        return [(each, bias) for each in tokenizer.encode(key, add_special=False)]
    is_id = isinstance(key, int) and not isinstance(key, bool) and 0 <= key < tokenizer.vocab_size
    return [(key, bias)] if is_id else []
