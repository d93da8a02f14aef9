"""When an attempt is repeated, and after how long."""

from __future__ import annotations

import pytest

from libertai_llm import errors
from libertai_llm.errors import LibertaiError
from libertai_llm.retry import RetryPolicy

POLICY = RetryPolicy(max_retries=3, first_delay=1, max_delay=3, max_retry_after=60)


@pytest.mark.parametrize(
    ("error", "is_repeated"),
    [
        (errors.ConnectError("refused"), True),
        (errors.ConnectError("TLS", is_retryable=False), False),
        (errors.TimedOut("x", phase="connect"), True),
        (errors.TimedOut("x", phase="first_token"), False),
        (errors.TimedOut("x", phase="between_tokens", has_begun=True), False),
        (errors.TimedOut("x", phase="total"), False),
        (errors.IncompleteStream("x"), False),
        (errors.IncompleteStream("x", has_begun=False), True),
        (errors.InvalidReply("x"), False),
        (errors.ServerError("x", status=500), True),
        (errors.ServerError("x", status=502), True),
        (errors.ServerError("x", status=504), False),
        (errors.ServerError("x", status=504, retry_after=1), False),
        (errors.NotSupported("x", status=501), False),
        (errors.Unavailable("x", status=503), True),
        (errors.SlotUnavailable("x", status=404), True),
        (errors.RateLimited("x", status=429), False),
        (errors.RateLimited("x", status=429, retry_after=1), True),
        (errors.BadRequest("x", status=400), False),
        (errors.ContextWindowExceeded("x", status=400), False),
        (errors.AuthenticationError("x", status=401), False),
        (errors.NotFound("x", status=404), False),
        (errors.APIError("x", status=408, retry_after=1), False),
        (errors.InvalidOption("x"), False),
        (errors.ModelNotLoaded("x"), False),
    ],
    ids=repr,
)
def test_what_is_repeated(error: LibertaiError, is_repeated: bool) -> None:
    """Only failures before the answer began, and of the 4xx only a 429 that says when."""
    assert (POLICY.delay(error, 0) is not None) is is_repeated


def test_what_has_begun_is_never_repeated() -> None:
    """Whatever went wrong."""
    error = errors.Unavailable("x", status=503)
    error.has_begun = True
    assert POLICY.delay(error, 0) is None


def test_pauses_grow_to_a_limit() -> None:
    """Doubling, capped, shortened by chance by no more than a half; then no more attempts."""
    error = errors.ConnectError("x")
    for attempt, longest in [(0, 1), (1, 2), (2, 3)]:
        pauses = [POLICY.delay(error, attempt) or 0 for _ in range(200)]
        assert longest / 2 <= min(pauses) and max(pauses) <= longest
        assert max(pauses) - min(pauses) > longest / 5, "clients must not come back in step"
    assert POLICY.delay(error, 3) is None
    assert RetryPolicy(max_retries=0).delay(error, 0) is None
    patient = RetryPolicy(max_retries=5000).delay(error, 4999)
    assert patient is not None and 4 <= patient <= 8, "a server may be away for hours"


def test_retry_after() -> None:
    """The server's own pause is kept exactly, unless it is too long to sleep through."""
    for seconds, expected in [(0, 0), (59.5, 59.5), (60, 60), (61, None)]:
        assert POLICY.delay(errors.Unavailable("x", retry_after=seconds), 0) == expected


@pytest.mark.parametrize("value", [-1, 1.5, True, "2", None])
def test_the_number_of_retries_is_checked(value: object) -> None:
    """A count from 0."""
    with pytest.raises(errors.InvalidOption, match="max_retries"):
        RetryPolicy(max_retries=value)  # type: ignore[arg-type]
