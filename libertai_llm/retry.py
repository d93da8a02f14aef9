"""Whether and when a failed attempt is made again. No I/O.

In: the error of an attempt. Out: seconds to wait before the next one, or None.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from libertai_llm.errors import (
    APIError,
    InvalidOption,
    LibertaiError,
    RateLimited,
    ServerError,
    TimedOut,
    TransportError,
)

GATEWAY_TIMEOUT = 504


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how patiently. Times in seconds.

    Only what failed before a byte of the answer came is repeated: no connection, a connection cut
    early, a 5xx (except 501 and 504), busy slots. A 4xx never is, with one exception that the
    server itself asks for: 429 together with `Retry-After`. Running out of time for the first
    token is not repeated either, nor is the 504 of a server or gateway whose time ran out: the
    model was at work, and asking twice doubles that and the wait. A `Retry-After` above
    `max_retry_after` is not slept through: the error is raised at once and says how long.
    Pauses double from `first_delay` to `max_delay`, each shortened by chance by up to a half.
    """

    max_retries: int = 2
    first_delay: float = 0.25
    max_delay: float = 8.0
    max_retry_after: float = 60.0

    def __post_init__(self) -> None:
        is_count = isinstance(self.max_retries, int) and not isinstance(self.max_retries, bool)
        if not is_count or self.max_retries < 0:
            raise InvalidOption("`max_retries` must be at least 0", field="max_retries")

    def delay(self, error: LibertaiError, attempt: int) -> float | None:
        """Seconds to wait after failed attempt number `attempt` (from 0); None: give up."""
        if attempt >= self.max_retries or not _may_repeat(error):
            return None
        if isinstance(error, APIError) and error.retry_after is not None:
            return error.retry_after if error.retry_after <= self.max_retry_after else None
        # NOTE: no float holds the thousandth power; the longest pause is reached long before.
        pause: float = min(self.first_delay * 2 ** min(attempt, 64), self.max_delay)
        return pause * random.uniform(0.5, 1.0)


def _may_repeat(error: LibertaiError) -> bool:
    if not error.is_retryable or error.has_begun:
        return False
    if isinstance(error, TimedOut):
        return error.phase == "connect"
    if isinstance(error, RateLimited):
        return error.retry_after is not None
    if isinstance(error, ServerError):
        return error.status != GATEWAY_TIMEOUT
    return isinstance(error, TransportError)
