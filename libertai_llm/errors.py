"""Everything that can go wrong between a caller and a server, as one exception tree.

In: nothing. Out: exceptions; catch `LibertaiError` for all, a branch, or one kind.

    LibertaiError
    ├── OptionError(field)              the caller's own mistake; nothing was sent
    │   ├── InvalidOption               also a ValueError
    │   ├── UnknownOption               also a TypeError
    │   └── UnsupportedSchema(path)     also a ValueError: no grammar for this JSON schema
    ├── EngineNotInstalled              also an ImportError
    ├── ModelNotLoaded                  the in-process model cannot be loaded
    ├── TransportError                  could not talk to the end
    │   ├── ConnectError                also a ConnectionError: refused, DNS, TLS, cut early
    │   ├── TimedOut(phase)             also a TimeoutError
    │   ├── IncompleteStream            the answer was cut; `partial_text` is what had arrived
    │   └── InvalidReply                an answer that is not the llama-like API
    └── APIError(status, type, body)    the server said no
        ├── BadRequest                  400, 405, 413, 414, 415, 422, 431
        │   └── ContextWindowExceeded(n_prompt_tokens, n_ctx)
        ├── AuthenticationError 401 · PaymentRequired 402 · PermissionDenied 403 · NotFound 404
        ├── RateLimited 429 (retry_after)
        └── ServerError                 5xx
            ├── NotSupported 501
            └── Unavailable 503 (retry_after)
                └── SlotUnavailable     every slot is busy (December 2023 says it with a 404)
"""

from __future__ import annotations

from typing import Any, Literal

Phase = Literal["connect", "first_token", "between_tokens", "total"]


class LibertaiError(Exception):
    """Root of everything this package raises on purpose. Picklable; holds no secrets.

    `is_retryable` says whether the same call may succeed later; `has_begun` is true if a part of
    the answer had arrived (the client itself then never repeats the call), `partial_text` is its
    text.
    """

    is_retryable: bool = False
    has_begun: bool = False
    partial_text: str = ""


class OptionError(LibertaiError):
    """A call that cannot be sent. `field` names the option."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class InvalidOption(OptionError, ValueError):
    """An option has a wrong type or value."""


class UnknownOption(OptionError, TypeError):
    """There is no option of this name."""


class UnsupportedSchema(OptionError, ValueError):
    """A JSON schema that is broken, or that no grammar can hold an answer to.

    `path` is the JSON pointer of the part in question, `#` the whole.
    """

    def __init__(self, message: str, *, path: str = "#") -> None:
        super().__init__(message, field="json_schema")
        self.path = path

    def __str__(self) -> str:
        return f"{self.args[0]} (at {self.path})"


class EngineNotInstalled(LibertaiError, ImportError):
    """The in-process engine was asked for, but its packages are missing."""


class ModelNotLoaded(LibertaiError):
    """The in-process engine cannot load its model: missing, corrupt, foreign or too large."""


class TransportError(LibertaiError):
    """No whole answer came."""

    is_retryable = True

    def __init__(self, message: str, *, has_begun: bool = False) -> None:
        super().__init__(message)
        self.has_begun = has_begun


class ConnectError(TransportError, ConnectionError):
    """The connection was refused, not secured, or cut before the answer began."""

    def __init__(self, message: str, *, is_retryable: bool = True) -> None:
        super().__init__(message)
        self.is_retryable = is_retryable


class TimedOut(TransportError, TimeoutError):
    """A limit of `Timeouts` was reached; `phase` says which one."""

    def __init__(self, message: str, *, phase: Phase = "total", has_begun: bool = False) -> None:
        super().__init__(message, has_begun=has_begun)
        self.phase: Phase = phase


class IncompleteStream(TransportError):
    """The answer ended before its end was announced. `partial_text` is not the answer."""

    def __init__(self, message: str, *, partial_text: str = "", has_begun: bool = True) -> None:
        super().__init__(message, has_begun=has_begun)
        self.partial_text = partial_text


class InvalidReply(TransportError):
    """The other side answered, but not in the llama-like API's words."""

    is_retryable = False

    def __init__(self, message: str) -> None:
        super().__init__(message, has_begun=True)


class APIError(LibertaiError):
    """The server refused or failed.

    `status` is the HTTP status (for an error inside a stream: the one it names), `type` the
    server's own word for it, `body` the decoded JSON or an excerpt of the text, `retry_after`
    the seconds the server asked to wait, if it did.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        type: str = "",
        body: Any = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.type = type
        self.body = body
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.message} (status {self.status})" if self.status else self.message


class BadRequest(APIError):
    """The server found the request wrong; sending it again does not help."""


class ContextWindowExceeded(BadRequest):
    """The prompt does not fit the model's context. Counts are in tokens, None if not told.

    A server of 2023 cuts such a prompt and answers: then `partial_text` is that answer, and
    `status` is 0.
    """

    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class AuthenticationError(APIError):
    """401: no API key, or a wrong one."""


class PaymentRequired(APIError):
    """402: the account has no credit left."""


class PermissionDenied(APIError):
    """403: the key is known but may not do this."""


class NotFound(APIError):
    """404: no such route or model at this address."""


class RateLimited(APIError):
    """429: too many requests."""

    is_retryable = True


class ServerError(APIError):
    """5xx: the server, or a gateway before it, failed."""

    is_retryable = True


class NotSupported(ServerError):
    """501: a valid wish that this server or model cannot fulfil."""

    is_retryable = False


class Unavailable(ServerError):
    """503: not now (loading, full, draining, or no machine behind the gateway)."""


class SlotUnavailable(Unavailable):
    """Every slot of the server is busy.

    The server of December 2023 does not queue: it answers 404 `File Not Found`, the same words as
    for a wrong address, so after the retries this may also mean that the address has a wrong path.
    """
