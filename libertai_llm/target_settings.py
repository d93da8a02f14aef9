"""Where a model class's calls go: the constructor arguments that all of them share.

In: constructor arguments. Out: checked settings, and the connection that carries calls. What is
secret is neither shown nor pickled.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from libertai_llm.connection import Connection, Target
from libertai_llm.session import SessionStore
from libertai_llm.timeouts import Timeouts

# Other libraries' names for the same fields.
_SYNONYMS = {"model": "model_name", "request_timeout": "timeout", "stop_sequences": "stop"}

_SECRETS = frozenset({"api_key", "default_headers"})
_ADDRESSES = frozenset({"base_url", "api_base"})

# NOTE: a class with a second base has to repeat this, or that base's settings would win.
STRICT = ConfigDict(
    extra="forbid",
    populate_by_name=True,
    arbitrary_types_allowed=True,
    protected_namespaces=(),
    # A message about one wrong field must not quote the key in another.
    hide_input_in_errors=True,
)


class TargetSettings(BaseModel):
    """The arguments that say where calls go.

    Invariant: `_connection` carries the calls of the present fields; it is made anew if the fields
    that say where calls go have changed. Unknown arguments are errors, and so are wrong values.

    Pickling keeps the settings without any secret: `api_key` then comes from the environment,
    `default_headers` are left out, and a model with an HTTP session or client of yours is refused
    (`TypeError`), as by `Client`. Copies in this process keep everything.
    """

    model_config = STRICT

    base_url: str | None = None
    """Server to call, such as `http://127.0.0.1:8080`. Excludes `engine`."""
    engine: Any = None
    """Model to run in this process: a folder, hub id, GGUF file, "demo", or an `Engine`."""
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)
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

    _connection: Connection | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any) -> None:
        """NOTE: pydantic's own one for private attributes forgets the framework's."""
        super().model_post_init(context)

    @model_validator(mode="before")
    @classmethod
    def _name_fields(cls, given: Any) -> Any:
        """Bring wire names and synonyms to the field's name, credentials out of the address."""
        if not isinstance(given, dict):
            return given
        named: dict[str, Any] = {}
        for name, value in given.items():
            field = cls._field_of(name)
            if field in named:
                raise ValueError(f"`{name}` is given twice")
            named[field] = value
        return _hide_credentials(named)

    @classmethod
    def _field_of(cls, name: str) -> str:
        """The field that an argument means."""
        return _SYNONYMS.get(name) or name

    @field_validator("engine", mode="before")
    @classmethod
    def _name_folder(cls, engine: Any) -> Any:
        """A path as text, which can be written as JSON, and whose `name` is not only its end."""
        return os.fspath(engine) if isinstance(engine, os.PathLike) else engine

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        if self._address() and self.engine is not None:
            raise ValueError("give `base_url` or `engine`, not both")
        return self

    @property
    def model(self) -> str:
        """The model's name."""
        return self.model_name

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

    def _connect(self) -> Connection:
        target = self._target()
        known = self._connection
        if known is None or known.target != target:
            known = self._connection = self._new_connection(target)
        return known

    def _new_connection(self, target: Target) -> Connection:
        return Connection(target, SessionStore())

    def close(self) -> None:
        """Let go of connections, and of the in-process engine if nobody else uses it."""
        self._connect().close()

    async def aclose(self) -> None:
        """`close` for what asynchronous calls have opened, too."""
        await self._connect().aclose()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy of the settings that shares what runs: engine, HTTP session and client."""
        shared = (self.engine, self.session, self.http_async_client)
        return super().__deepcopy__({**(memo or {}), **{id(each): each for each in shared}})

    def __getstate__(self) -> dict[Any, Any]:
        if self.session is not None or self.http_async_client is not None:
            raise TypeError("a model with an HTTP session or client of yours cannot be pickled")
        if not (self.engine is None or isinstance(self.engine, (str, os.PathLike))):
            raise TypeError("a model of a running engine cannot be pickled: name its model")
        state = BaseModel.__getstate__(self)
        kept = {name: value for name, value in vars(self).items() if name not in _SECRETS}
        for name in _ADDRESSES & kept.keys():
            kept[name] = split_credentials(kept[name] or "")[1] or kept[name]
        names = self.model_fields_set - _SECRETS
        return {**state, "__dict__": kept, "__pydantic_fields_set__": names}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        fields_of_kind = type(self).model_fields
        secrets = {
            name: fields_of_kind[name].get_default(call_default_factory=True) for name in _SECRETS
        }
        BaseModel.__setstate__(self, {**state, "__dict__": {**state["__dict__"], **secrets}})

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
    user_info, address = split_credentials(named.get(name) or "")
    if not user_info:
        return named
    token = base64.b64encode(unquote(user_info).encode()).decode()
    headers = {**(named.get("default_headers") or {}), "Authorization": f"Basic {token}"}
    return {**named, name: address, "default_headers": headers}


def split_credentials(address: str) -> tuple[str, str]:
    """`user:password`, and the address without it."""
    parts = urlsplit(address)
    user_info, _, host = parts.netloc.rpartition("@")
    return user_info, parts._replace(netloc=host).geturl() if user_info else address
