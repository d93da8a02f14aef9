"""The engine's one exception tree; each class knows the HTTP status and `type` it answers with.

In: nothing. Out: exceptions that `api` and `server` turn into `{"error": {code, message, type}}`.
"""

from __future__ import annotations

from typing import Any, ClassVar


class EngineError(Exception):
    """Root of everything the engine raises on purpose. Message is safe to show to a client."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"

    def to_json(self) -> dict[str, Any]:
        """Body of the `error` object: `{"code": int, "message": str, "type": str}`."""
        return {"code": self.status, "message": str(self), "type": self.type}


class InvalidRequest(EngineError):
    """The request itself is wrong. `field` is the name of the offending field, if there is one."""

    status = 400
    type = "invalid_request_error"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NoTokenPossible(InvalidRequest):
    """Biases and a grammar together forbid every token there is."""

    def __init__(self) -> None:
        super().__init__("no token possible")


class ContextOverflow(InvalidRequest):
    """The prompt has more tokens than one slot's context holds."""

    type = "exceed_context_size_error"

    def __init__(self, num_prompt_tokens: int, context_size: int) -> None:
        super().__init__(
            f"the request ({num_prompt_tokens} tokens) exceeds the available context size "
            f"({context_size} tokens): context_length_exceeded",
            field="prompt",
        )
        self.num_prompt_tokens = num_prompt_tokens
        self.context_size = context_size

    def to_json(self) -> dict[str, Any]:
        """The error object with today's llama-server keys `n_prompt_tokens` and `n_ctx`."""
        numbers = {"n_prompt_tokens": self.num_prompt_tokens, "n_ctx": self.context_size}
        return super().to_json() | numbers


class SlotFileError(InvalidRequest):
    """A slot file that cannot be written or read, or belongs to another model."""


class PermissionDenied(EngineError):
    """A valid wish that this caller may not have fulfilled."""

    status = 403
    type = "permission_error"


class NotFound(EngineError):
    """What was asked for does not exist here."""

    status = 404
    type = "not_found_error"


class NotSupported(EngineError):
    """A valid wish that this model or build cannot fulfil. `field` names it, if it is one field."""

    status = 501
    type = "not_supported_error"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class EngineUnavailable(EngineError):
    """Not now: the queue is full, or the engine is loading, draining, closed or broken.

    `retry_after` is in seconds.
    """

    status = 503
    type = "unavailable_error"

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class GenerationFailed(EngineError):
    """The model broke on this one request (not a number in the logits, an exception in forward)."""


class ModelLoadError(EngineError):
    """The model cannot be loaded: missing, corrupt, foreign or too large. Says what and where."""
