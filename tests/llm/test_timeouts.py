"""The four limits and their clock."""

from __future__ import annotations

import math

import pytest

from libertai_llm.errors import InvalidOption, Phase, TimedOut
from libertai_llm.timeouts import Deadlines, Timeouts


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def phase_at(deadlines: Deadlines) -> Phase | None:
    try:
        deadlines.check()
    except TimedOut as error:
        return error.phase
    return None


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "5", [1]])
@pytest.mark.parametrize("name", ["connect", "first_token", "between_tokens", "total"])
def test_limits_are_positive_numbers(name: str, value: object) -> None:
    """Anything else is refused by name; None is no limit."""
    with pytest.raises(InvalidOption, match=name):
        Timeouts(**{name: value})  # type: ignore[arg-type]
    assert getattr(Timeouts(**{name: None}), name) is None


def test_a_number_is_the_total() -> None:
    """The other limits keep their defaults; None changes nothing."""
    default = Timeouts(connect=3)
    assert Timeouts.of(5, default) == Timeouts(connect=3, total=5)
    assert Timeouts.of(None, default) is default
    assert Timeouts.of(Timeouts(total=1), default) == Timeouts(total=1)


def test_tokens_move_the_limit() -> None:
    """First one limit, then from token to token the other."""
    clock = Clock()
    deadlines = Deadlines(Timeouts(first_token=10, between_tokens=2), clock=clock)
    clock.now += 9.9
    assert phase_at(deadlines) is None and deadlines.remaining == pytest.approx(0.1)
    deadlines.on_event()
    assert deadlines.remaining == pytest.approx(2)
    for _ in range(10):
        clock.now += 1.9
        deadlines.on_event()
    assert phase_at(deadlines) is None
    clock.now += 2
    assert phase_at(deadlines) == "between_tokens"


def test_no_token_at_all() -> None:
    """The first limit has its own name, and says its length."""
    clock = Clock()
    deadlines = Deadlines(Timeouts(first_token=10), clock=clock)
    clock.now += 10
    with pytest.raises(TimedOut, match="within 10 s") as caught:
        deadlines.check()
    assert caught.value.phase == "first_token" and not caught.value.has_begun


def test_the_total_never_moves() -> None:
    """Tokens do not extend the whole."""
    clock = Clock()
    deadlines = Deadlines(Timeouts(between_tokens=2, total=5), clock=clock)
    for _ in range(5):
        clock.now += 1
        deadlines.on_event()
    assert phase_at(deadlines) == "total"


def test_connecting() -> None:
    """Connecting may take its own limit, and never more than is left of the others."""
    clock = Clock()
    deadlines = Deadlines(Timeouts(connect=3, total=5), clock=clock)
    assert deadlines.connect == 3
    assert deadlines.error(is_connecting=True).phase == "connect"
    clock.now += 4
    assert deadlines.connect == pytest.approx(1)
    clock.now += 1
    assert deadlines.error(is_connecting=True).phase == "total"
    assert Deadlines(Timeouts.unlimited()).connect is None


def test_without_limits() -> None:
    """Nothing is ever late; a time-out of the system's own is still put into words."""
    clock = Clock()
    deadlines = Deadlines(Timeouts.unlimited(), clock=clock)
    clock.now += 1e9
    assert phase_at(deadlines) is None and deadlines.remaining is None
    assert "system" in str(deadlines.error())
