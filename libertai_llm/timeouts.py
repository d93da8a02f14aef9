"""How long a call may be silent: the four limits, and the clock that watches them.

In: seconds. Out: `Timeouts` (what is allowed) and `Deadlines` (what is left, now).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from libertai_llm.errors import InvalidOption, Phase, TimedOut


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Limits in seconds; None means no limit.

    `connect`: until the connection stands. `first_token`: from sending the request to the first
    event of a stream, or to the first byte of a whole answer (which is silent until it is
    finished, so for `complete` this includes the generation). `between_tokens`: between two events
    of a stream. `total`: the whole call, retries and their pauses included. Comment lines that a
    server sends to keep proxies awake (`: ping`) are not tokens and extend nothing.
    A plain number given where `Timeouts` is expected is `total`.
    Raises `InvalidOption` for anything but positive numbers.
    """

    connect: float | None = 10.0
    first_token: float | None = 600.0
    between_tokens: float | None = 120.0
    total: float | None = None

    def __post_init__(self) -> None:
        for name in ("connect", "first_token", "between_tokens", "total"):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (is_number and value > 0 and math.isfinite(value)):
                raise InvalidOption(f"`{name}` must be a positive number of seconds", field=name)

    @classmethod
    def unlimited(cls) -> Timeouts:
        """No limit at all: what the in-process engine gets unless told otherwise."""
        return cls(connect=None, first_token=None, between_tokens=None, total=None)

    @classmethod
    def of(cls, value: Timeouts | float | None, default: Timeouts) -> Timeouts:
        """A number is the total; None is the default."""
        if value is None:
            return default
        return value if isinstance(value, Timeouts) else replace(default, total=value)


class Deadlines:
    """The clock of one attempt, started when it is made.

    Invariant: `remaining` is the time until the earliest limit that is still running; only
    `on_event` (a token came) moves it, and the total never moves.
    """

    def __init__(self, timeouts: Timeouts, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeouts = timeouts
        self._clock = clock
        now = clock()
        self._end = _after(now, timeouts.total)
        self._token = _after(now, timeouts.first_token)
        self._has_begun = False

    @property
    def connect(self) -> float | None:
        """Seconds that connecting may take."""
        limits = [self.timeouts.connect, self.remaining]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def remaining(self) -> float | None:
        """Seconds until the next limit, at least a millisecond; None if there is no limit."""
        end = min(self._end, self._token)
        return None if end == math.inf else max(end - self._clock(), 1e-3)

    @property
    def is_over(self) -> bool:
        """True once a limit is reached."""
        return self._clock() >= min(self._end, self._token)

    def on_event(self) -> None:
        """A token (or the first byte of a whole answer) has come."""
        self._has_begun = True
        self._token = _after(self._clock(), self.timeouts.between_tokens)

    def check(self) -> None:
        """Raise `TimedOut` if a limit is reached."""
        if self.is_over:
            raise self.error()

    def error(self, *, is_connecting: bool = False) -> TimedOut:
        """The error for the limit that ends first."""
        phase: Phase = "between_tokens" if self._has_begun else "first_token"
        if self._end <= self._token:
            phase = "total"
        if is_connecting and not self.is_over:
            phase = "connect"
        seconds = getattr(self.timeouts, phase)
        limit = "the system's own limit" if seconds is None else f"{seconds:g} s"
        message = f"timed out: {_PHASES[phase]} within {limit}"
        return TimedOut(message, phase=phase, has_begun=self._has_begun)


_PHASES: dict[Phase, str] = {
    "connect": "no connection",
    "first_token": "no token of the answer",
    "between_tokens": "no further token of the answer",
    "total": "no whole answer",
}


def _after(now: float, seconds: float | None) -> float:
    return math.inf if seconds is None else now + seconds
