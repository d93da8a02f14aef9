"""What we ask of a completion: options by name, checked, and turned into a JSON body.

In: keyword options, in Python's spelling or the wire's. Out: `CompletionParams`, and its
`to_wire()` dict. Everything is checked here, before it is sent: a server of December 2023 ends its
whole process on a badly typed field.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from libertai_llm import checks
from libertai_llm.errors import InvalidOption, UnknownOption

Prompt = str | Sequence[int | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionParams:
    """Options of one completion. None means: not sent, the server's default holds.

    `max_tokens` is the wire's `n_predict` (0: only evaluate the prompt, -1: until the end);
    `repeat_last_n` 0 is off, -1 the whole context; `logit_bias` maps token ids to a number that is
    added, or to False, which bans the token; `n_probs` asks for that many probabilities a token
    (a server of 2023 tells them in streams, and of whole answers that a stop word has ended);
    `return_tokens` for the ids of an answer (`Completion.tokens`; a server of 2023 tells none);
    `slot_id` -1 leaves the choice to the server; `max_draft` is the most tokens to guess ahead in a
    step, the wire's `speculative.n_max` (0: none; the answer is the same); `extra_body` holds
    further fields for the server at hand, sent as they are. Raises `InvalidOption` naming the
    field.

    `context_shift` False: a prompt that does not fit raises `ContextWindowExceeded`, and an answer
    ends with the context. True: a long prompt is cut, and while an answer goes on the oldest part
    of a full context is dropped; `Completion.truncated` then says so.
    """

    max_tokens: int | None = field(default=None, metadata=checks.integer(-1, wire="n_predict"))
    temperature: float | None = field(default=None, metadata=checks.number())
    dynatemp_range: float | None = field(default=None, metadata=checks.number(0))
    dynatemp_exponent: float | None = field(default=None, metadata=checks.number())
    top_k: int | None = field(default=None, metadata=checks.integer())
    top_p: float | None = field(default=None, metadata=checks.number())
    min_p: float | None = field(default=None, metadata=checks.number())
    top_n_sigma: float | None = field(default=None, metadata=checks.number())
    xtc_probability: float | None = field(default=None, metadata=checks.number())
    xtc_threshold: float | None = field(default=None, metadata=checks.number())
    tfs_z: float | None = field(default=None, metadata=checks.number())
    typical_p: float | None = field(default=None, metadata=checks.number())
    min_keep: int | None = field(default=None, metadata=checks.integer(0))
    repeat_penalty: float | None = field(default=None, metadata=checks.positive())
    repeat_last_n: int | None = field(default=None, metadata=checks.integer(-1))
    penalize_nl: bool | None = field(default=None, metadata=checks.boolean())
    presence_penalty: float | None = field(default=None, metadata=checks.number())
    frequency_penalty: float | None = field(default=None, metadata=checks.number())
    dry_multiplier: float | None = field(default=None, metadata=checks.number())
    dry_base: float | None = field(default=None, metadata=checks.number())
    dry_allowed_length: int | None = field(default=None, metadata=checks.integer(0))
    dry_penalty_last_n: int | None = field(default=None, metadata=checks.integer(-1))
    dry_sequence_breakers: Sequence[str] | None = field(default=None, metadata=checks.strings())
    mirostat: int | None = field(default=None, metadata=checks.integer(0, 2))
    mirostat_tau: float | None = field(default=None, metadata=checks.number())
    mirostat_eta: float | None = field(default=None, metadata=checks.number())
    samplers: Sequence[str] | None = field(default=None, metadata=checks.strings())
    seed: int | None = field(default=None, metadata=checks.integer(-1, 2**32 - 1))
    ignore_eos: bool | None = field(default=None, metadata=checks.boolean())
    logit_bias: Mapping[Any, float] | Sequence[Sequence[Any]] | None = field(
        default=None, metadata=checks.logit_bias()
    )
    n_probs: int | None = field(default=None, metadata=checks.integer(0))
    post_sampling_probs: bool | None = field(default=None, metadata=checks.boolean())
    return_tokens: bool | None = field(default=None, metadata=checks.boolean())
    n_keep: int | None = field(default=None, metadata=checks.integer(-1))
    stop: str | Sequence[str] | None = field(default=None, metadata=checks.words())
    grammar: str | None = field(default=None, metadata=checks.text())
    json_schema: Mapping[str, Any] | None = field(default=None, metadata=checks.json_object())
    image_data: Sequence[Mapping[str, Any]] | None = field(default=None, metadata=checks.images())
    system_prompt: Mapping[str, str] | None = field(default=None, metadata=checks.text_object())
    cache_prompt: bool | None = field(default=True, metadata=checks.boolean())
    context_shift: bool | None = field(default=False, metadata=checks.boolean())
    slot_id: int | None = field(default=None, metadata=checks.integer(-1))
    max_draft: int | None = field(
        default=None, metadata=checks.integer(0, wire="speculative.n_max")
    )
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, check in _CHECKS:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check(name, value))
        object.__setattr__(self, "extra_body", _check_extra(self.extra_body))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> CompletionParams:
        """Options by Python name or wire name. None is "not sent".

        Raises `UnknownOption` with the nearest known name, `InvalidOption` for a bad value or an
        option given under two names.
        """
        given: dict[str, Any] = {}
        for name, value in options.items():
            python_name = python_name_of(name)
            if python_name in given:
                raise InvalidOption(f"`{name}` is given twice", field=name)
            if value is not None or python_name in _SENT_BY_DEFAULT:
                given[python_name] = value
        return cls(**given)

    def to_wire(self) -> dict[str, Any]:
        """The fields of the JSON body. Nothing is null; the slot goes under both its names."""
        named = {wire_name: getattr(self, name) for name, wire_name in _WIRE_NAMES}
        body = {name: value for name, value in named.items() if value is not None}
        if "slot_id" in body:
            body["id_slot"] = body["slot_id"]
        return body | dict(self.extra_body)


def completion_body(prompt: Any, options: Mapping[str, Any], is_stream: bool) -> dict[str, Any]:
    """The body of `/completion`. Raises `OptionError`."""
    params = CompletionParams.from_options(options)
    return {"prompt": checks.check_prompt(prompt), "stream": is_stream, **params.to_wire()}


def infill_parts(prefix: Any, suffix: Any, prompt: Any, files: Any) -> dict[str, Any]:
    """What `/infill` shall fill, as fields of its body. Raises `InvalidOption`."""
    body: dict[str, Any] = {
        "input_prefix": checks.check_text("prefix", prefix),
        "input_suffix": checks.check_text("suffix", suffix),
    }
    if prompt is not None:
        body["prompt"] = checks.check_text("prompt", prompt)
    if files is not None:
        named = checks.check_text_object("files", files)
        body["input_extra"] = [{"filename": name, "text": text} for name, text in named.items()]
    return body


def infill_body(
    parts: Mapping[str, Any], options: Mapping[str, Any], is_stream: bool
) -> dict[str, Any]:
    """The body of `/infill`. Raises `OptionError`."""
    params = CompletionParams.from_options(options)
    return {**parts, "stream": is_stream, **params.to_wire()}


def python_name_of(name: str) -> str:
    """`n_predict` → `max_tokens`. Raises `UnknownOption`, suggesting what may have been meant."""
    if name in OPTION_NAMES:
        return OPTION_NAMES[name]
    near = difflib.get_close_matches(name, OPTION_NAMES, n=1)
    hint = f": did you mean `{near[0]}`?" if near else "; other fields go into `extra_body`"
    raise UnknownOption(f"unknown option `{name}`{hint}", field=name)


def _wire_name(each: Any) -> str:
    name: str = each.metadata.get(checks.WIRE) or each.name
    return name


def _check_extra(value: Any) -> dict[str, Any]:
    extra = checks.check_json_object("extra_body", value)
    for name, item in extra.items():
        if name in OPTION_NAMES or name in RESERVED:
            raise InvalidOption(
                f"`{name}` in `extra_body`: give it as an option of its own", field=name
            )
        if item is None:
            raise InvalidOption(
                f"`{name}` in `extra_body` must not be None", field=name or "extra_body"
            )
    return extra


# Their default here is not the server's, so None has a meaning of its own: not sent.
_SENT_BY_DEFAULT = frozenset({"cache_prompt", "context_shift"})

# What the client itself writes into a body.
RESERVED = frozenset({"prompt", "stream", "input_prefix", "input_suffix", "input_extra"})

# What is done with each call's options, found once: (name, check) and (name, name on the wire).
_CHECKS = tuple(
    (each.name, each.metadata[checks.CHECK]) for each in fields(CompletionParams) if each.metadata
)
_WIRE_NAMES = tuple(
    (each.name, _wire_name(each)) for each in fields(CompletionParams) if each.metadata
)

# Every accepted spelling -> the name in CompletionParams.
OPTION_NAMES: dict[str, str] = {
    **{each.name: each.name for each in fields(CompletionParams)},
    **{_wire_name(each): each.name for each in fields(CompletionParams) if each.metadata},
    "max_completion_tokens": "max_tokens",
    "id_slot": "slot_id",
}
