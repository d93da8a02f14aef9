"""What every request must pass before a route sees it; each check is a pure function.

In: the request's head, the configuration. Out: nothing, or a `Refusal`; CORS headers.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from libertai_engine.config import ServerConfig
from libertai_engine.http.answers import Refusal, invalid

MAX_HEADER_BYTES = 16 << 10
MAX_TARGET_BYTES = 8 << 10

_LOCAL_ORIGIN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?")


def check_head(scope: Scope) -> None:
    """Raises `Refusal`: 414 for a long target, 431 for large headers, 400 for two framings.

    A proxy in front may believe the other one of `Content-Length` and `Transfer-Encoding`, and
    see another request where we see the end of this one's body.
    """
    if len(scope.get("raw_path", b"")) + len(scope["query_string"]) > MAX_TARGET_BYTES:
        raise invalid(f"the URI is longer than {MAX_TARGET_BYTES} bytes", 414)
    if sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        raise invalid(f"the headers are larger than {MAX_HEADER_BYTES} bytes", 431)
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
        raise invalid("the request has both Content-Length and Transfer-Encoding")


def is_loopback(host: str) -> bool:
    """True if only this machine can reach what listens on `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_host(headers: Headers, config: ServerConfig) -> None:
    """Refuse (403) foreign names for a server that only this machine shall reach.

    A web page whose name is made to resolve to 127.0.0.1 (DNS rebinding) is of the same origin as
    the server in the browser's eyes; the `Host` header still carries the page's name.
    """
    given = headers.get("host")
    if given is None or not is_loopback(config.host):
        return
    name = _host_name(given)
    if name == config.host or name in config.allowed_hosts or is_loopback(name):
        return
    raise Refusal(403, "permission_error", "this server does not answer to that Host")


def _host_name(given: str) -> str:
    try:
        return (urlsplit(f"//{given}").hostname or "").lower()
    except ValueError:
        return ""


def check_key(headers: Headers, keys: tuple[str, ...]) -> None:
    """Raises `Refusal` 401 unless every key that the request carries, at least one, is known."""
    given = headers.getlist("x-api-key") + [_bearer(h) for h in headers.getlist("authorization")]
    if keys and not (given and all(_is_known(key, keys) for key in given)):
        www_authenticate = {"www-authenticate": "Bearer"}
        raise Refusal(401, "authentication_error", "Invalid API Key", www_authenticate)


def _bearer(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _is_known(given: str, keys: tuple[str, ...]) -> bool:
    # NOTE: every key is compared, and bytes in constant time: the time taken tells nothing.
    # Headers arrive as latin-1, keys are configured as text, in which surrogates stand for what was
    # no UTF-8 on the command line.
    bare = given.encode("latin-1", "replace")
    known = [key.encode(errors="surrogateescape") for key in keys]
    return sum(hmac.compare_digest(bare, each) for each in known) > 0


def cors_headers(origin: str | None, config: ServerConfig) -> dict[str, str]:
    """What lets a web page of an allowed origin read the answer; nothing for other origins.

    Allowed are `config.cors_origins` (`*`: all), by default pages served from this machine.
    """
    vary = {"vary": "Origin"}
    if origin is None or not _is_allowed(origin, config.cors_origins):
        return vary
    return vary | {
        "access-control-allow-origin": origin,
        "access-control-allow-credentials": "true",
    }


def _is_allowed(origin: str, allowed: tuple[str, ...]) -> bool:
    if not allowed:
        return _LOCAL_ORIGIN.fullmatch(origin) is not None
    return "*" in allowed or origin in allowed


def preflight_headers(requested: str | None) -> dict[str, str]:
    """What a page may send, as it asks before it does: any header, as OpenAI's client has many.

    Only pages of an allowed origin may read this, and each request must have a known key anyhow.
    """
    return {
        "access-control-allow-methods": "GET, POST, OPTIONS",
        "access-control-allow-headers": requested or "authorization, content-type, x-api-key",
        "access-control-max-age": "600",
    }
