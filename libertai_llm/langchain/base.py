"""What `ChatLibertai` and `LibertaiLLM` have in common: constructor fields and where calls go.

In: constructor arguments. Out: the options of a call, the connection that carries it, and what
LangChain wants to know of a model's identity.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import requests
from langchain_core.language_models import BaseLanguageModel, LangSmithParams
from langchain_core.utils import secret_from_env
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, model_validator
from typing_extensions import Self

from libertai_llm._version import __version__
from libertai_llm.langchain.connection import Connection, Target
from libertai_llm.langchain.options import CallOptions, make_call, split_options
from libertai_llm.langchain.output import PROVIDER
from libertai_llm.params import OPTION_NAMES, CompletionParams
from libertai_llm.prompt import merge_stops
from libertai_llm.session import SessionStore
from libertai_llm.target import BASE_VARIABLE, DEMO_MODEL
from libertai_llm.timeouts import Timeouts

# Other libraries' names for the same fields.
_SYNONYMS = {"model": "model_name", "request_timeout": "timeout", "stop_sequences": "stop"}

_SECRETS = frozenset({"api_key", "default_headers"})
# What LangChain derives from the other fields and remembers.
_DERIVED = "_serialized"
_ADDRESSES = frozenset({"base_url", "api_base"})


class BaseLibertai(BaseLanguageModel):  # type: ignore[type-arg]
    """The common constructor. Every option left at None is the server's choice.

    Invariant: `_connection` carries the calls of the present fields; it is made anew if the fields
    that say where calls go have changed. Unknown arguments are errors, and so are wrong values.

    Pickling keeps the settings without any secret: `api_key` then comes from the environment,
    `default_headers` are left out, and a model with an HTTP session or client of yours is refused
    (`TypeError`), as by `Client`. Copies in this process keep everything.
    """

    model_config = ConfigDict(
        extra="forbid",
        populate_by_name=True,
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        # A message about one wrong field must not quote the key in another.
        hide_input_in_errors=True,
    )

    base_url: str | None = None
    """Server to call, such as `http://127.0.0.1:8080`. Excludes `engine`."""
    engine: Any = None
    """Model to run in this process: a folder, hub id, GGUF file, "demo", or an `Engine`."""
    api_key: SecretStr | None = Field(
        default_factory=secret_from_env("LIBERTAI_API_KEY", default=None)
    )
    """Sent as a Bearer token. Default: `LIBERTAI_API_KEY`."""
    model_name: str = Field(default="", alias="model")
    """The model's name, for servers that have several; else only reported."""
    timeout: float | Timeouts | None = None
    """Seconds for a whole call, or `Timeouts` with each limit."""
    max_retries: int = 2
    """Attempts after the first one; nothing is repeated once an answer has begun."""
    session: requests.Session | None = Field(default=None, exclude=True, repr=False)
    """Your own `requests.Session` (proxies, certificates, adapters) for blocking calls."""
    http_async_client: Any = Field(default=None, exclude=True, repr=False)
    """Your own `httpx.AsyncClient` for calls that do not block; it lives in one event loop."""
    default_headers: Mapping[str, str] | None = Field(default=None, exclude=True, repr=False)
    """Further headers for every request."""
    sessions: SessionStore = Field(default_factory=SessionStore, exclude=True, repr=False)
    """The conversations: cookies and slot of each. Share one store between models if you like."""
    streaming: bool = False
    """Stream inside `invoke` as well, so that callbacks see each token."""

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
    """Report the ids of the answer's tokens, in `response_metadata["tokens"]`."""
    logprobs: bool | None = None
    """Report the probability of each token."""
    top_logprobs: int | None = None
    """Report this many of the likeliest tokens at each place."""
    n_keep: int | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    image_data: list[dict[str, Any]] | None = None
    system_prompt: dict[str, str] | None = None
    cache_prompt: bool = True
    """Let the server keep what it evaluated for the next turn."""
    context_shift: bool = False
    """False: what does not fit the context raises `ContextOverflowError`. True: it is cut, and
    the oldest part of a full context is dropped while an answer goes on."""
    slot_id: int | None = None
    """A slot of the server for all calls; None or -1: each conversation keeps its own."""
    extra_body: dict[str, Any] | None = None
    """Further fields for the server at hand, sent as they are."""

    _connection: Connection | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _name_fields(cls, given: Any) -> Any:
        """Bring wire names and synonyms to the field's name, credentials out of the address."""
        if not isinstance(given, dict):
            return given
        named: dict[str, Any] = {}
        for name, value in given.items():
            field: str = _SYNONYMS.get(name) or name
            if field not in cls.model_fields:
                field = OPTION_NAMES.get(field) or field
            if field in named:
                raise ValueError(f"`{name}` is given twice")
            named[field] = value
        return _hide_credentials(named)

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        """Wrong values are found now, not at the first call."""
        if self._address() and self.engine is not None:
            raise ValueError("give `base_url` or `engine`, not both")
        make_call(self._defaults(), [], {})
        self._connect()
        return self

    @model_validator(mode="after")
    def _set_libertai_version(self) -> Self:
        self._add_version("libertai-llm", __version__)
        return self

    @property
    def model(self) -> str:
        """The model's name."""
        return self.model_name

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Models can be written as JSON, secrets as names, and read with `load`."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Fields that are written as the name of an environment variable."""
        return {"api_key": "LIBERTAI_API_KEY"}

    def get_token_ids(self, text: str) -> list[int]:
        """The model's own token ids of a text, without any that the server would add."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._connect().tokenize(text)

    def _address(self) -> str | None:
        """The server to call, if one was named."""
        return self.base_url

    def _target(self) -> Target:
        # NOTE: a key that nobody gave explicitly is left to the client, which takes it from the
        # environment only if the headers bring no other authorisation.
        is_given = self.api_key is not None and "api_key" in self.model_fields_set
        settings = {
            "base_url": self._address(),
            "engine": self.engine,
            "api_key": self.api_key.get_secret_value() if self.api_key and is_given else None,
            "timeouts": self.timeout,
            "max_retries": self.max_retries,
            "headers": self.default_headers,
        }
        return Target(settings=settings, session=self.session, http_client=self.http_async_client)

    def _defaults(self) -> dict[str, Any]:
        """The options of every call: what the constructor set."""
        names = [*_OPTION_FIELDS, "logprobs", "top_logprobs"]
        found = {name: getattr(self, name) for name in names} | {"model": self.model_name or None}
        return {name: value for name, value in found.items() if value is not None}

    def _stops(self, stop: Sequence[str] | str | None) -> list[str]:
        """All stop words of a call, the constructor's first."""
        return merge_stops(self.stop, stop)

    def _call(self, stop: Sequence[str] | None, given: Mapping[str, Any]) -> CallOptions:
        """What one call asks for. Raises `UnknownOption` naming an option that is none."""
        return make_call(self._defaults(), self._stops(stop), given)

    def _connect(self) -> Connection:
        target = self._target()
        known = self._connection
        if known is None or known.target != target or known.sessions is not self.sessions:
            known = self._connection = Connection(target, self.sessions)
        return known

    def _identity(self) -> dict[str, Any]:
        """Everything that can change an answer, and nothing else: no key, no cookie, no slot."""
        options = {name: value for name, value in self._defaults().items() if name != "slot_id"}
        if self.engine is not None:
            return options | {"engine": getattr(self.engine, "name", self.engine)}
        address = self._address() or os.environ.get(BASE_VARIABLE)
        if not address:
            return options | {"engine": DEMO_MODEL}
        # NOTE: the environment's address may hold a password, and this is shown in traces.
        return options | {"base_url": _split_credentials(address)[1]}

    def _ls_params(
        self, kind: Literal["chat", "llm"], stop: Sequence[str] | None, given: Mapping[str, Any]
    ) -> LangSmithParams:
        """What a trace says of a call, overrides at the call included."""
        options = {**self._defaults(), **split_options(given)[0]}
        params = LangSmithParams(ls_provider=PROVIDER, ls_model_name=self._reported_name(options))
        params["ls_model_type"] = kind
        if options.get("temperature") is not None:
            params["ls_temperature"] = options["temperature"]
        if options.get("max_tokens") is not None:
            params["ls_max_tokens"] = options["max_tokens"]
        if stops := self._stops(stop if stop is not None else given.get("stop")):
            params["ls_stop"] = stops
        return params

    def _reported_name(self, options: Mapping[str, Any]) -> str:
        engine = self.engine
        name = options.get("model") or engine or PROVIDER
        return name if isinstance(name, str) else str(getattr(name, "name", PROVIDER))

    def close(self) -> None:
        """Let go of connections, and of the in-process engine if nobody else uses it."""
        self._connect().close()

    async def aclose(self) -> None:
        """`close` for what asynchronous calls have opened, too."""
        await self._connect().aclose()

    def __getstate__(self) -> dict[Any, Any]:
        if self.session is not None or self.http_async_client is not None:
            raise TypeError("a model with an HTTP session or client of yours cannot be pickled")
        state = super().__getstate__()
        left_out = _SECRETS | {_DERIVED}
        kept = {name: value for name, value in vars(self).items() if name not in left_out}
        for name in _ADDRESSES & kept.keys():
            kept[name] = _split_credentials(kept[name] or "")[1] or kept[name]
        names = self.model_fields_set - _SECRETS
        return {**state, "__dict__": kept, "__pydantic_fields_set__": names}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        fields_of_kind = type(self).model_fields
        secrets = {
            name: fields_of_kind[name].get_default(call_default_factory=True) for name in _SECRETS
        }
        super().__setstate__({**state, "__dict__": {**state["__dict__"], **secrets}})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _hide_credentials(named: dict[str, Any]) -> dict[str, Any]:
    """Move `user:password@` from the address, which is shown, to the headers, which are not."""
    name = "api_base" if named.get("api_base") else "base_url"
    user_info, address = _split_credentials(named.get(name) or "")
    if not user_info:
        return named
    token = base64.b64encode(unquote(user_info).encode()).decode()
    headers = {**(named.get("default_headers") or {}), "Authorization": f"Basic {token}"}
    return {**named, name: address, "default_headers": headers}


def _split_credentials(address: str) -> tuple[str, str]:
    """`user:password`, and the address without it."""
    parts = urlsplit(address)
    user_info, _, host = parts.netloc.rpartition("@")
    return user_info, parts._replace(netloc=host).geturl() if user_info else address


_OPTION_FIELDS = tuple(each.name for each in fields(CompletionParams) if each.name != "stop")
