"""Bodies of `/v1/completions` and `/v1/chat/completions` to requests. Pure functions.

In: a decoded JSON object. Out: an `OpenAICall`, or an error naming the field. What OpenAI's API
shares with `/completion` (`temperature`, `stop`, `seed`, …) and what it lacks (`top_k`, `min_p`, …)
is read by `wire.parse`; here its other names are translated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from libertai_engine.errors import InvalidRequest, NotSupported
from libertai_engine.openai_wire.response_format import FIELD, parse_response_format
from libertai_engine.sequence import Request
from libertai_engine.text.fim import Gap, encode_gap
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.wire.coerce import UINT32_MAX, Body, to_bool, to_int, to_str, wrong
from libertai_engine.wire.constraints import compile_schema, wants_closing
from libertai_engine.wire.messages import parse_chat
from libertai_engine.wire.parse import Limits, parse_completion
from libertai_engine.wire.prompts import MAX_PROMPTS, encode_prompt, split_prompts

MAX_TOP_LOGPROBS = 20
INT64_MAX = 2**63 - 1
UNLIMITED = 1 << 40  # tokens: `encode_gap` shall cut nothing, a long prompt is refused here

# What today's llama-server does on these routes when a request says nothing.
DEFAULTS: Mapping[str, Any] = {"repeat_penalty": 1.0, "cache_prompt": True}
# Read here, in OpenAI's meaning; the rest is left to `/completion`'s parser.
_TRANSLATED = frozenset({"prompt", "stream", "n_probs", "logprobs", "seed", "stop", "n_predict"})
_LIMIT_NAMES = ("max_completion_tokens", "max_tokens", "n_predict")
_UNSUPPORTED = ("system_prompt", "image_data", "audio", "web_search_options")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAICall:
    """A checked body.

    Invariant: `requests` holds `num_choices` of each prompt, prompt by prompt, numbered by their
    `index`; `echoes` one text a prompt, empty unless the answer is to begin with it. `field` is the
    name of what the prompts came from, `limit_name` that of what limits the answers.
    """

    requests: tuple[Request, ...]
    num_choices: int
    echoes: tuple[str, ...]
    field: str
    limit_name: str
    with_logprobs: bool
    with_usage: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What only one of the routes reads: `field` holds the prompts, `stop` are words that the chat
    template needs; the others as in `OpenAICall`."""

    token_ids: list[list[int]]
    echoes: tuple[str, ...]
    field: str
    num_logprobs: int | None
    stop: Sequence[str] = ()


def parse_chat_body(fields: Any, tokenizer: Tokenizer, limits: Limits) -> OpenAICall:
    """Check a `/v1/chat/completions` body. Raises naming the field."""
    body = Body(fields)
    if body.get("modalities", _to_list, ["text"]) != ["text"]:
        raise _unsupported("modalities", "other than text")
    chat = parse_chat(body, tokenizer)
    asked = _Asked(
        token_ids=[tokenizer.encode(chat.text, add_special=True)],
        echoes=("",),
        field="messages",
        num_logprobs=_chat_logprobs(body),
        stop=chat.stop,
    )
    return _call(body, asked, tokenizer, limits)


def _chat_logprobs(body: Body) -> int | None:
    count = body.get("top_logprobs", _to_top_logprobs, 0)
    if body.get("logprobs", to_bool, False):
        return int(count)
    if count:
        raise InvalidRequest("`top_logprobs` needs `logprobs`", field="top_logprobs")
    return None


def parse_text_body(fields: Any, tokenizer: Tokenizer, limits: Limits) -> OpenAICall:
    """Check a `/v1/completions` body. Raises naming the field."""
    body = Body(fields)
    texts = _parse_prompts(body)
    suffix = body.get("suffix", to_str, "")
    token_ids = [_encode(each, suffix, tokenizer) for each in texts]
    has_echo = body.get("echo", to_bool, False)
    num_logprobs = _text_logprobs(body)
    if num_logprobs is not None and has_echo:
        raise _unsupported("logprobs", "of an `echo`")
    if body.get("best_of", to_int, None) not in (None, body.get("n", to_int, 1)):
        raise _unsupported("best_of", "other than `n`")
    asked = _Asked(
        token_ids=token_ids,
        echoes=tuple(
            _text_of(each, ids, tokenizer) if has_echo else ""
            for each, ids in zip(texts, token_ids, strict=True)
        ),
        field="prompt",
        num_logprobs=num_logprobs,
    )
    return _call(body, asked, tokenizer, limits)


def _text_logprobs(body: Body) -> int | None:
    asked = body.fields.get("logprobs")
    # NOTE: 0 equals false, and yet asks for the chosen token's.
    return None if asked is None or asked is False else _to_top_logprobs("logprobs", asked)


def _text_of(prompt: Any, token_ids: Sequence[int], tokenizer: Tokenizer) -> str:
    return prompt if isinstance(prompt, str) else tokenizer.decode(token_ids)


def _parse_prompts(body: Body) -> list[Any]:
    """One prompt, or several: texts or arrays of token ids."""
    prompt = body.fields.get("prompt")
    if prompt is None:
        raise InvalidRequest("`prompt` is required", field="prompt")
    several = split_prompts(prompt)
    return _one(prompt) if several is None else several


def _one(prompt: Any) -> list[Any]:
    """A single prompt; an array of one text is that text."""
    is_wrapped = isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str)
    return prompt if is_wrapped else [prompt]


def _encode(prompt: Any, suffix: str, tokenizer: Tokenizer) -> list[int]:
    if not suffix:
        return encode_prompt(prompt, tokenizer)
    if tokenizer.fim is None:
        raise _unsupported("suffix", "with a model that has no fill-in-the-middle tokens")
    gap = Gap(prefix=to_str("prompt", prompt), suffix=suffix)
    token_ids, _ = encode_gap(gap, tokenizer.fim, tokenizer, UNLIMITED)
    return [*tokenizer.encode("", add_special=True), *token_ids]


def _call(body: Body, asked: _Asked, tokenizer: Tokenizer, limits: Limits) -> OpenAICall:
    """The call of these prompts with the options of a body."""
    _refuse_unsupported(body)
    num_choices = body.get("n", lambda name, value: to_int(name, value, 1, MAX_PROMPTS), 1)
    if num_choices * len(asked.token_ids) > MAX_PROMPTS:
        raise wrong("n", f"at most {MAX_PROMPTS} answers in all")
    # NOTE: a prompt is never cut on these routes, and no system prompt stands before it.
    options = _llama_options(body, asked)
    parsed = parse_completion(options, tokenizer, replace(limits, system_ids=()))
    requests = _shaped(parsed.requests, body, limits)
    return OpenAICall(
        requests=_choices(requests, num_choices, asked.num_logprobs),
        num_choices=num_choices,
        echoes=asked.echoes,
        field=asked.field,
        limit_name=_limit_name(body),
        with_logprobs=asked.num_logprobs is not None,
        with_usage=_wants_usage(body),
    )


def _shaped(requests: Sequence[Request], body: Body, limits: Limits) -> Sequence[Request]:
    """The requests, held to what `response_format` says."""
    schema = parse_response_format(body)
    if schema is None:
        return requests
    grammar = compile_schema(body, limits.grammars, FIELD, schema)
    is_closed = wants_closing(body, grammar, _max_tokens(body))
    return [replace(each, grammar=grammar, closes_grammar=is_closed) for each in requests]


def _refuse_unsupported(body: Body) -> None:
    for name in _UNSUPPORTED:
        if body.fields.get(name):
            raise _unsupported(name)


def _unsupported(name: str, which: str = "") -> NotSupported:
    return NotSupported(" ".join(f"`{name}` {which} is not supported".split()), field=name)


def _llama_options(body: Body, asked: _Asked) -> dict[str, Any]:
    """The same wishes in the words of `/completion`."""
    kept = {
        name: value
        for name, value in body.fields.items()
        if name not in _TRANSLATED and value is not None
    }
    return {
        **DEFAULTS,
        **kept,
        "prompt": asked.token_ids,
        "n_predict": _max_tokens(body),
        "seed": body.get("seed", _to_folded_seed, None),
        "stop": _with_more(body.fields.get("stop"), asked.stop),
        "context_shift": False,
    }


def _max_tokens(body: Body) -> int:
    """The limit under the first of its names that is given; -1 for none."""
    limit: int = body.get(_limit_name(body), lambda name, value: to_int(name, value, -1), -1)
    return limit


def _limit_name(body: Body) -> str:
    given = (name for name in _LIMIT_NAMES if body.fields.get(name) is not None)
    return next(given, _LIMIT_NAMES[0])


def _with_more(stop: Any, more: Sequence[str]) -> Any:
    """The asked stop words, whatever they are, and those that the template needs."""
    if not more:
        return stop
    if isinstance(stop, list):
        return [*stop, *more]
    return list(more) if stop is None else [stop, *more]


def _choices(
    requests: Sequence[Request], num_choices: int, num_logprobs: int | None
) -> tuple[Request, ...]:
    """Each request as many times as answers are wanted, with seeds that count up."""
    made: list[Request] = []
    for request in requests:
        for choice in range(num_choices):
            seed = request.sampling.seed
            sampling = replace(
                request.sampling,
                seed=None if seed is None else (seed + choice) % UINT32_MAX,
                num_logprobs=num_logprobs,
            )
            made.append(replace(request, sampling=sampling, index=len(made)))
    return tuple(made)


def _wants_usage(body: Body) -> bool:
    options = Body(body.get("stream_options", _to_object, {}))
    wish: bool = options.get("include_usage", _in("stream_options", to_bool), False)
    return wish


def _in(parent: str, convert: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: convert(f"{parent}.{name}", value)


def _to_folded_seed(name: str, value: Any) -> int:
    """A seed of 64 bits, as OpenAI takes it, folded to 32; -1 draws one."""
    seed = to_int(name, value, -INT64_MAX - 1, INT64_MAX)
    return seed if seed == -1 else seed % UINT32_MAX


def _to_top_logprobs(name: str, value: Any) -> int:
    return to_int(name, value, 0, MAX_TOP_LOGPROBS)


def _to_object(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise wrong(name, "an object")
    return value


def _to_list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise wrong(name, "an array")
    return value
