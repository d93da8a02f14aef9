"""What every model class of the package is told: where calls go, and the options of a call.

In: constructor arguments. Out: checked settings, the connection that carries calls, and the options
that each call begins with. A framework's class adds what only its framework wants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from pydantic import Field, model_validator
from typing_extensions import Self

from libertai_llm.connection import Connection, Target
from libertai_llm.options import make_call
from libertai_llm.params import OPTION_NAMES, CompletionParams
from libertai_llm.prompt import merge_stops
from libertai_llm.session import SessionStore
from libertai_llm.target_settings import STRICT, TargetSettings, split_credentials

__all__ = ["PROVIDER", "STRICT", "ModelSettings", "split_credentials"]

PROVIDER = "libertai"


class ModelSettings(TargetSettings):
    """The common constructor. Every option left at None is the server's choice.

    Invariant: that of `TargetSettings`; conversations are kept in `sessions`.
    """

    model_config = STRICT

    sessions: SessionStore = Field(default_factory=SessionStore, exclude=True, repr=False)
    """The conversations: cookies and slot of each. Share one store between models if you like."""

    max_tokens: int | None = None
    """Most tokens to generate; -1: until the end or until the context is full."""
    stop: str | list[str] | None = None
    """Words that end an answer, together with those given at the call."""
    temperature: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    tfs_z: float | None = None
    typical_p: float | None = None
    min_keep: int | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    penalize_nl: bool | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: list[str] | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    samplers: list[str] | None = None
    seed: int | None = None
    ignore_eos: bool | None = None
    logit_bias: dict[int | str, float | bool] | list[list[Any]] | None = None
    n_probs: int | None = None
    post_sampling_probs: bool | None = None
    return_tokens: bool | None = None
    """Report the ids of the answer's tokens, with what is told of the answer."""
    logprobs: bool | None = None
    """Report the probability of each token."""
    top_logprobs: int | None = None
    """Report this many of the likeliest tokens at each place."""
    n_keep: int | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    image_data: list[dict[str, Any]] | None = None
    cache_prompt: bool = True
    """Let the server keep what it evaluated for the next turn."""
    context_shift: bool = False
    """False: what does not fit the context raises `ContextOverflowError`. True: it is cut, and
    the oldest part of a full context is dropped while an answer goes on."""
    slot_id: int | None = None
    """A slot of the server for all calls; None or -1: each conversation keeps its own."""
    max_draft: int | None = None
    """Most tokens to guess ahead in a step; 0: none. It changes the speed, not the answer."""
    extra_body: dict[str, Any] | None = None
    """Further fields for the server at hand, sent as they are."""

    @classmethod
    def _field_of(cls, name: str) -> str:
        """The field that an argument means; options may be called as on the wire."""
        field = super()._field_of(name)
        return field if field in cls.model_fields else OPTION_NAMES.get(field) or field

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        """Wrong values are found now, not at the first call."""
        make_call(self._defaults(), [], {})
        self._connect()
        return self

    def _defaults(self) -> dict[str, Any]:
        """The options of every call: what the constructor set."""
        names = [*_OPTION_FIELDS, "logprobs", "top_logprobs"]
        found = {name: getattr(self, name) for name in names} | {"model": self.model_name or None}
        return {name: value for name, value in found.items() if value is not None}

    def _stops(self, stop: Sequence[str] | str | None) -> list[str]:
        """All stop words of a call, the constructor's first."""
        return merge_stops(self.stop, stop)

    def _connect(self) -> Connection:
        target = self._target()
        known = self._connection
        if known is None or known.target != target or known.sessions is not self.sessions:
            known = self._connection = self._new_connection(target)
        return known

    def _new_connection(self, target: Target) -> Connection:
        return Connection(target, self.sessions)

    def _reported_name(self, options: Mapping[str, Any]) -> str:
        engine = self.engine
        name = options.get("model") or engine or PROVIDER
        return name if isinstance(name, str) else str(getattr(name, "name", PROVIDER))


# Stop words are merged apart; `system_prompt` means something else to LlamaIndex.
_OPTION_FIELDS = tuple(
    each.name for each in fields(CompletionParams) if each.name not in {"stop", "system_prompt"}
)
