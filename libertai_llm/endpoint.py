"""A server's address and what opens it, and the HTTP requests that go there. No I/O.

In: a base URL, an API key, headers. Out: `HTTPRequest`s for both HTTP libraries, and where a
redirect may lead. Secrets are kept here and shown nowhere.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from libertai_llm._version import __version__
from libertai_llm.errors import ConnectError, InvalidOption, InvalidReply

MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPRequest:
    """One request as both HTTP libraries send it.

    Invariant: `secrets` (headers that only the configured server may see) are empty and
    `is_home` is false once a redirect has led to another origin.
    """

    method: str
    url: str
    body: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    is_home: bool = True

    @property
    def all_headers(self) -> dict[str, str]:
        """What to send."""
        return {**self.headers, **self.secrets}

    def redirected(self, location: str | None) -> HTTPRequest:
        """The same request where a redirect points to, method and body kept.

        To another origin no secret goes along (the caller leaves cookies behind too); the same
        host on the standard ports of http and then https is the same origin. Raises `ConnectError`
        for a way back from https to http, `InvalidReply` for a redirect to nowhere.
        """
        url, there = _join(self.url, location or "")
        if not location or there.scheme not in ("http", "https") or not there.hostname:
            raise InvalidReply(_NO_ADDRESS)
        here = urlsplit(self.url)
        if here.scheme == "https" and there.scheme == "http":
            message = f"refused a redirect from https to http, at {_origin(there)}"
            raise ConnectError(message, is_retryable=False)
        # Credentials that a redirect writes into the address are not ours to send.
        url = there._replace(netloc=there.netloc.rpartition("@")[2]).geturl()
        if self.is_home and _is_same_origin(here, there):
            return replace(self, url=url)
        return replace(self, url=url, secrets={}, is_home=False)


class Endpoint:
    """A server: its base URL, its headers, its credentials.

    Invariant: `base_url` holds no credentials and no trailing slash. Neither `repr` nor pickle
    shows a key, a password or a header of the user's. Raises `InvalidOption`.
    """

    def __init__(
        self, base_url: str, *, api_key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        parts = _split(base_url)
        user_info, _, host = parts.netloc.rpartition("@")
        path = parts.path.rstrip("/").removesuffix("/completion").rstrip("/")
        self.base_url = f"{parts.scheme}://{host}{path}"
        self.origin = _origin(parts)
        self._secrets = _secrets(user_info, api_key, headers or {})

    @property
    def has_authorization(self) -> bool:
        """True if requests carry an Authorization header of ours."""
        return any(name.lower() == "authorization" for name in self._secrets)

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None, *, is_stream: bool = False
    ) -> HTTPRequest:
        """The request for a route. Raises `InvalidOption` for a body that JSON cannot carry."""
        headers = {
            "Accept": "text/event-stream" if is_stream else "application/json",
            # Compressing proxies hold events back until a block is full.
            "Accept-Encoding": "identity",
            "User-Agent": f"libertai-llm/{__version__}",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        return HTTPRequest(
            method=method,
            url=self.base_url + path,
            body=None if body is None else encode_body(body),
            headers=headers,
            secrets=self._secrets,
        )

    def __repr__(self) -> str:
        return f"Endpoint({self.base_url!r})"


def encode_body(body: Mapping[str, Any]) -> bytes:
    """UTF-8 JSON as the strictest server reads it: no NaN, no lone surrogates."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidOption(f"the request cannot be written as JSON: {error}") from None


def _split(base_url: str) -> SplitResult:
    try:
        parts = urlsplit(base_url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_usable = is_usable and (parts.port is None or parts.port > 0)
    except ValueError:
        is_usable = False
    if not is_usable or parts.query or parts.fragment or not base_url.isprintable():
        # NOTE: the address may hold a password, so it is not repeated here.
        raise InvalidOption(
            "`base_url` must be like http://host:port/path, without query", field="base_url"
        )
    return parts


def _secrets(user_info: str, api_key: str | None, headers: Mapping[str, str]) -> dict[str, str]:
    """The user's own headers and at most one Authorization."""
    secrets = {_header(name, "headers"): _header(text, "headers") for name, text in headers.items()}
    given = [name for name in secrets if name.lower() == "authorization"]
    if bool(user_info) + bool(api_key) + bool(given) > 1:
        raise InvalidOption(
            "`api_key`, an Authorization header and a password in `base_url` exclude each other",
            field="api_key",
        )
    if user_info:
        plain = unquote(user_info).encode()
        secrets["Authorization"] = "Basic " + base64.b64encode(plain).decode()
    if api_key:
        secrets["Authorization"] = "Bearer " + _header(api_key, "api_key")
    return secrets


def _header(value: Any, field_name: str) -> str:
    is_header = isinstance(value, str) and value.isascii() and value.isprintable()
    if not is_header or value != value.strip():
        raise InvalidOption(f"`{field_name}` must be printable ASCII text", field=field_name)
    return str(value)


def _origin(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.hostname}:{_port(parts)}"


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL, without anything else."""
    return _origin(urlsplit(url))


_NO_ADDRESS = "the server redirects to no address of the web"


def _join(base: str, location: str) -> tuple[str, SplitResult]:
    """Where a location leads from an address. Raises `InvalidReply` for one that is malformed."""
    try:
        url = urljoin(base, location)
        parts = urlsplit(url)
        _port(parts)
    except ValueError:
        raise InvalidReply(_NO_ADDRESS) from None
    return url, parts


def _is_same_origin(here: SplitResult, there: SplitResult) -> bool:
    if here.hostname != there.hostname:
        return False
    is_upgrade = (here.scheme, there.scheme) == ("http", "https")
    on_standard_ports = _port(here) == 80 and _port(there) == 443
    return _origin(here) == _origin(there) or (is_upgrade and on_standard_ports)
