"""What one call asks for: the model's own options, then the call's, checked and merged.

In: a wrapper's fields, its stop words, and the keyword arguments of a call. Out: a `CallOptions`
that the connection sends. Pure, the same for sync and async and for every framework.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from libertai_llm.errors import BadRequest, InvalidOption
from libertai_llm.params import OPTION_NAMES, CompletionParams, python_name_of
from libertai_llm.prompt import merge_stops
from libertai_llm.session import ANY_SLOT
from libertai_llm.timeouts import Timeouts

# What a call may say beside the options of a completion. `stream` is LangChain's own switch.
_CALL_ONLY = frozenset({"model", "thread_id", "timeout", "logprobs", "top_logprobs", "stream"})
# Where and how patiently an answer is asked for, not what it is: no part of a cache key.
PLACEMENT = frozenset({"thread_id", "slot_id", "timeout", "stream"})

# Our own engine's option: end a grammar within the tokens that are left.
CLOSE_GRAMMAR = "close_grammar"

# The `repeat_penalty` that changes nothing.
_NO_PENALTY = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """One completion to be asked for, checked. `thread_id` names the conversation, if it has one.

    `options` are those of a completion, `timeout` is the client's `timeouts` (None: as always),
    `model` is the name that was asked for. `is_closing`: an engine that can shall bring the grammar
    to its end within `max_tokens`.
    """

    options: Mapping[str, Any]
    thread_id: str | None = None
    timeout: Timeouts | float | None = None
    model: str = ""
    is_closing: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of the client's methods."""
        return {"timeouts": self.timeout, **self.options}

    def stopping_at(self, words: Sequence[str]) -> CallOptions:
        """The same call with further stop words."""
        stops = merge_stops(self.options.get("stop"), words)
        return replace(self, options={**self.options, "stop": stops})

    def showing(self, image_data: Sequence[Mapping[str, Any]]) -> CallOptions:
        """The same call with the images of its messages.

        Raises `InvalidOption` if the call brings `image_data` of its own: the numbers would clash.
        """
        if not image_data:
            return self
        if self.options.get("image_data"):
            raise InvalidOption(
                "`image_data` is given beside messages with images", field="image_data"
            )
        return replace(self, options={**self.options, "image_data": image_data})

    def held_to(self, grammar: str | None, *, is_closing: bool = False) -> CallOptions:
        """The same call with the grammar of what it asks for, if there is one.

        With the grammar goes `repeat_penalty` 1, unless model or call say another: calls and JSON
        repeat their quotes and keys and the words of the prompt, and servers penalise by default.
        Raises `InvalidOption` if the call brings a `grammar` of its own.
        """
        if grammar is None:
            return self
        if self.options.get("grammar"):
            raise InvalidOption(
                "`grammar` is given beside tools or a response format", field="grammar"
            )
        options = {**self.options, "grammar": grammar}
        if options.get("repeat_penalty") is None:
            options["repeat_penalty"] = _NO_PENALTY
        return replace(self, options=options, is_closing=is_closing)

    def closing(self) -> CallOptions:
        """The same call, for an engine that can bring a grammar to its end in time."""
        extra = {**(self.options.get("extra_body") or {}), CLOSE_GRAMMAR: True}
        return replace(self, options={**self.options, "extra_body": extra})

    def may_stay_open(self, error: BadRequest) -> bool:
        """Whether the engine refused only to bring the grammar to its end in time."""
        return self.is_closing and not error.has_begun and CLOSE_GRAMMAR in str(error)

    def staying_open(self) -> CallOptions:
        """The same call, whose answer may be cut off."""
        extra = dict(self.options.get("extra_body") or {})
        extra.pop(CLOSE_GRAMMAR, None)
        return replace(self, options={**self.options, "extra_body": extra}, is_closing=False)

    def evaluating_only(self) -> CallOptions:
        """The same call, with no answer generated."""
        return replace(self, options={**self.options, "max_tokens": 0})


def canonical(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options under one name each: `n_predict` and `max_completion_tokens` are `max_tokens`.

    Raises `UnknownOption` naming what is none, `InvalidOption` for one given twice.
    """
    named: dict[str, Any] = {}
    for name, value in options.items():
        python_name = name if name in _CALL_ONLY else python_name_of(name)
        if python_name in named:
            raise InvalidOption(f"`{name}` is given twice", field=name)
        named[python_name] = value
    return named


def split_options(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A call's options under one name each (None is none), and all other arguments."""
    own = {name: value for name, value in given.items() if _is_option(name)}
    rest = {name: value for name, value in given.items() if name not in own}
    return {name: value for name, value in canonical(own).items() if value is not None}, rest


def _is_option(name: str) -> bool:
    return name in OPTION_NAMES or name in _CALL_ONLY


def make_call(
    defaults: Mapping[str, Any],
    stop: Sequence[str],
    given: Mapping[str, Any],
    thread_id: str | None = None,
) -> CallOptions:
    """The constructor's options, overridden by the call's; None at the call means the default.

    `stop` are all stop words already merged, `thread_id` is the conversation of a call that names
    none. Raises `UnknownOption` or `InvalidOption`.
    """
    overrides = {name: value for name, value in canonical(given).items() if value is not None}
    options = {**defaults, **overrides}
    extra = merged_extra(defaults.get("extra_body"), overrides.get("extra_body"))
    model = options.pop("model", "")
    if model:
        extra["model"] = model
    thread_id = options.pop("thread_id", None) or thread_id
    timeout = options.pop("timeout", None)
    options = _without_call_only(options) | {"extra_body": extra, "stop": list(stop) or None}
    if options.get("slot_id") == ANY_SLOT:
        del options["slot_id"]
    CompletionParams.from_options(options)
    return CallOptions(options=options, thread_id=thread_id, timeout=timeout, model=model)


def merged_extra(ours: Any, theirs: Any) -> dict[str, Any]:
    """The `extra_body` of a model and of a call together. Raises `InvalidOption`."""
    for each in (ours, theirs):
        if each is not None and not isinstance(each, Mapping):
            raise InvalidOption("`extra_body` must be an object", field="extra_body")
    return {**(ours or {}), **(theirs or {})}


def _without_call_only(options: dict[str, Any]) -> dict[str, Any]:
    """Translate the frameworks' way to ask for probabilities, and drop what the API does not know.

    `top_logprobs` and `logprobs` become `n_probs`, unless that is given.
    """
    top, wanted = options.get("top_logprobs"), options.get("logprobs")
    if options.get("n_probs") is None and wanted is not False and (top or wanted):
        options["n_probs"] = top or 1
    return {name: value for name, value in options.items() if name not in _CALL_ONLY}
