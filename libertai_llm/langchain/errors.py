"""The client's errors as LangChain's: code that catches either kind keeps working.

In: a `LibertaiError`. Out: an exception that is both that kind of `LibertaiError` and LangChain's
`ModelError` of the same meaning, so that retry and summarising middleware understand it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from langchain_core import exceptions as langchain

from libertai_llm import errors


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """What LangChain writes into a trace of a failed call: status and body.

    NOTE: it would write every header too, `Set-Cookie` among them, so there are none here.
    """

    status_code: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        """The decoded body, or an excerpt of its text."""
        return self.body


class LibertaiBadRequest(errors.BadRequest, langchain.ModelInvalidRequestError):
    """The server found the request wrong."""


class LibertaiContextOverflow(errors.ContextWindowExceeded, langchain.ContextOverflowError):
    """The prompt does not fit the model's context."""


class LibertaiAuthenticationError(errors.AuthenticationError, langchain.ModelAuthenticationError):
    """401: no API key, or a wrong one."""


class LibertaiPaymentRequired(errors.PaymentRequired, langchain.ModelPermissionDeniedError):
    """402: the account has no credit left."""


class LibertaiPermissionDenied(errors.PermissionDenied, langchain.ModelPermissionDeniedError):
    """403: the key is known but may not do this."""


class LibertaiNotFound(errors.NotFound, langchain.ModelNotFoundError):
    """404: no such route or model at this address."""


class LibertaiRateLimited(errors.RateLimited, langchain.ModelRateLimitError):
    """429: too many requests."""


class LibertaiServerError(errors.ServerError, langchain.ModelAPIError):
    """5xx: the server, or a gateway before it, failed."""


class LibertaiNotSupported(errors.NotSupported, langchain.ModelInvalidRequestError):
    """501: a valid wish that this server or model cannot fulfil."""


class LibertaiUnavailable(errors.Unavailable, langchain.ModelAPIError):
    """503: not now."""


class LibertaiSlotUnavailable(errors.SlotUnavailable, langchain.ModelAPIError):
    """Every slot of the server is busy."""


class LibertaiAPIError(errors.APIError, langchain.ModelAPIError):
    """The server said no in a way of its own."""


class LibertaiConnectError(errors.ConnectError, langchain.ModelConnectionError):
    """The server cannot be reached."""


class LibertaiTimedOut(errors.TimedOut, langchain.ModelTimeoutError):
    """A time limit was reached."""


class LibertaiIncompleteStream(errors.IncompleteStream, langchain.ModelConnectionError):
    """The answer was cut; `partial_text` is what had arrived."""


class LibertaiInvalidReply(errors.InvalidReply, langchain.ModelAPIError):
    """The other side answered, but not in the llama-like API's words."""


class LibertaiTransportError(errors.TransportError, langchain.ModelConnectionError):
    """No whole answer came, for another reason."""


_LANGCHAIN_KINDS: dict[type[errors.LibertaiError], type[errors.LibertaiError]] = {
    kind.__bases__[0]: kind
    for kind in (
        LibertaiBadRequest,
        LibertaiContextOverflow,
        LibertaiAuthenticationError,
        LibertaiPaymentRequired,
        LibertaiPermissionDenied,
        LibertaiNotFound,
        LibertaiRateLimited,
        LibertaiServerError,
        LibertaiNotSupported,
        LibertaiUnavailable,
        LibertaiSlotUnavailable,
        LibertaiAPIError,
        LibertaiConnectError,
        LibertaiTimedOut,
        LibertaiIncompleteStream,
        LibertaiInvalidReply,
        LibertaiTransportError,
    )
}


@contextmanager
def model_errors() -> Iterator[None]:
    """Raise the client's errors as LangChain's. The caller's own mistakes stay what they are."""
    try:
        yield
    except errors.LibertaiError as error:
        raised = as_model_error(error)
        if raised is error:
            raise
        raise raised from error


def as_model_error(error: errors.LibertaiError) -> errors.LibertaiError:
    """The same error, being LangChain's kind as well; itself if LangChain has no such kind."""
    kinds = (_LANGCHAIN_KINDS.get(kind) for kind in type(error).__mro__)
    kind = next((found for found in kinds if found is not None), None)
    if kind is None or isinstance(error, langchain.ModelError):
        return error
    twin = kind.__new__(kind, *error.args)
    twin.args = error.args
    vars(twin).update(copy.copy(vars(error)))
    if isinstance(twin, errors.APIError):
        vars(twin)["response"] = ErrorResponse(twin.status, twin.body)
    return twin
