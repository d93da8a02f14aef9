"""Ranges of numbers as patterns of their decimal numerals.

In: bounds as `Decimal`. Out: `Pattern`s of JSON numerals, digit by digit exact.

A whole number has at most 20 digits unless a bound has more: Python refuses to read numerals of
more than 4,300, and a weak model would write digits without end. A number with bounds is written
without an exponent and, near a bound, with at most 15 digits, of which a float keeps each: so a
numeral within never rounds to one beyond.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from libertai_llm.gbnf import charsets
from libertai_llm.gbnf.patterns import (
    DIGITS,
    EPSILON,
    NOTHING,
    Choice,
    Concat,
    Pattern,
    PatternError,
    Set,
    Times,
    literal,
)

MAX_INTEGER_DIGITS = 20
MAX_BOUNDED_DIGITS = 15
_MIN_FRACTION_DIGITS = 6
_MAX_BOUND_DIGITS = 400


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a range; None means open. `is_strict`: the value itself is outside."""

    value: Decimal
    is_strict: bool = False

    @property
    def mirrored(self) -> Bound:
        """The same end of the range below zero.

        NOTE: `-value` would be rounded to 28 digits, and `abs` too.
        """
        return Bound(self.value.copy_negate(), self.is_strict)


def integers(low: Bound | None, high: Bound | None) -> Pattern:
    """Whole numbers within the bounds; `NOTHING` if there are none."""
    first = None if low is None else _round_up(low)
    last = None if high is None else -_round_up(high.mirrored)
    digits = max(MAX_INTEGER_DIGITS, *(len(str(abs(each or 0))) + 1 for each in (first, last)))
    most = 10**digits - 1
    first = -most if first is None else first
    last = most if last is None else last
    options: list[Pattern] = []
    if first < 0:
        options.append(Concat((literal("-"), _naturals(max(1, -last), -first))))
    if last >= 0:
        options.append(_naturals(max(0, first), last))
    return Choice(tuple(options))


def decimals(low: Bound | None, high: Bound | None) -> Pattern:
    """Numbers within the bounds, without an exponent; `NOTHING` if there are none.

    Raises `PatternError` for a strict bound of more digits than a float keeps.
    """
    for bound in (low, high):
        _check(bound)
    options: list[Pattern] = []
    if low is None or low.value < 0:
        # Zero is written without a sign: it belongs to the other option.
        nearest = Bound(Decimal(0), True)
        if high is not None and high.value <= 0:
            nearest = Bound(high.mirrored.value, high.is_strict or high.value == 0)
        farthest = None if low is None else low.mirrored
        options.append(Concat((literal("-"), _magnitudes(nearest, farthest))))
    if high is None or high.value >= 0:
        nearest = low if low is not None and low.value >= 0 else Bound(Decimal(0))
        options.append(_magnitudes(nearest, high))
    return Choice(tuple(options))


def _round_up(bound: Bound) -> int:
    """The least whole number within a lower bound."""
    whole = int(bound.value.to_integral_value(rounding="ROUND_CEILING"))
    return whole + 1 if bound.is_strict and whole == bound.value else whole


def _check(bound: Bound | None) -> None:
    if bound is None:
        return
    whole, fraction = _digits(bound.value)
    if bound.is_strict and len(str(whole)) + len(fraction) > MAX_BOUNDED_DIGITS:
        raise PatternError(f"an exclusive bound of more than {MAX_BOUNDED_DIGITS} digits")
    if len(str(whole)) + len(fraction) > _MAX_BOUND_DIGITS:
        raise PatternError(f"a bound of more than {_MAX_BOUND_DIGITS} digits")


def _digits(value: Decimal) -> tuple[int, str]:
    """The whole part, and the digits of the fraction without trailing zeros."""
    whole, _, fraction = format(value.copy_abs(), "f").partition(".")
    return int(whole), fraction.rstrip("0")


def _naturals(first: int, last: int) -> Pattern:
    """Numerals of first … last, none below 0."""
    options: list[Pattern] = []
    while first <= last:
        end = min(last, 10 ** len(str(first)) - 1)
        options.append(_same_length(str(first), str(end)))
        first = end + 1
    return Choice(tuple(options))


def _same_length(first: str, last: str) -> Pattern:
    """Digit strings from first to last, all of one length."""
    if not first:
        return EPSILON
    if set(first[1:]) <= {"0"} and set(last[1:]) <= {"9"}:
        return Concat((_digit(first[0], last[0]), _any_digits(len(first) - 1, len(first) - 1)))
    if first[0] == last[0]:
        return Concat((literal(first[0]), _same_length(first[1:], last[1:])))
    rest = len(first) - 1
    lowest, highest = _same_length(first[1:], "9" * rest), _same_length("0" * rest, last[1:])
    options: list[Pattern] = [
        Concat((literal(first[0]), lowest)),
        Concat((literal(last[0]), highest)),
    ]
    if int(last[0]) - int(first[0]) > 1:
        between = _digit(chr(ord(first[0]) + 1), chr(ord(last[0]) - 1))
        options.append(Concat((between, _any_digits(rest, rest))))
    return Choice(tuple(options))


def _magnitudes(low: Bound, high: Bound | None) -> Pattern:
    """Numerals without sign from low, which is not below 0, to high."""
    first, first_fraction = _digits(low.value)
    above = _Floor(first_fraction, low.is_strict)
    if high is None:
        room = _room(first, len(first_fraction), len(first_fraction))
        last = 10 ** max(MAX_BOUNDED_DIGITS, len(str(first)) + 1) - 1
        rest = Concat((_naturals(first + 1, last), _fraction(None, None, room)))
        return Choice((Concat((literal(str(first)), _fraction(above, None, room))), rest))
    last, last_fraction = _digits(high.value)
    if first > last:
        return NOTHING
    below = _Ceiling(last_fraction, high.is_strict)
    longest = max(len(first_fraction), len(last_fraction))
    if first == last:
        room = _room(first, longest, longest)
        return Concat((literal(str(first)), _fraction(above, below, room)))
    least = _fraction(above, None, _room(first, longest, len(first_fraction)))
    most = _fraction(None, below, _room(last, longest, len(last_fraction)))
    return Choice(
        (
            Concat((literal(str(first)), least)),
            *_between(first + 1, last - 1, longest),
            Concat((literal(str(last)), most)),
        )
    )


def _between(first: int, last: int, longest: int) -> list[Pattern]:
    """Numerals whose whole part is first … last, whatever their fraction."""
    options: list[Pattern] = []
    while first <= last:
        room = _room(first, longest, 0)
        # As far as there is that much room.
        end = min(last, 10 ** (MAX_BOUNDED_DIGITS - room) - 1) if room else last
        options.append(Concat((_naturals(first, end), _fraction(None, None, room))))
        first = end + 1
    return options


def _room(whole: int, longest: int, least: int) -> int:
    """How many digits there may be behind this whole part, `longest` being those of a bound."""
    most = min(_MIN_FRACTION_DIGITS + longest, MAX_BOUNDED_DIGITS - len(str(whole)))
    return max(most, least)


@dataclass(frozen=True, slots=True)
class _Floor:
    """What the rest of a fraction must reach: the digits still to come, compared as a fraction."""

    digits: str
    is_strict: bool

    @property
    def is_met(self) -> bool:
        """By nothing but zeros."""
        return not self.digits and not self.is_strict

    def after(self, digit: str) -> _Floor | None | bool:
        """What is left after this digit: None if nothing, False if it is missed."""
        wanted = self.digits[:1] or "0"
        if digit != wanted:
            return None if digit > wanted else False
        return _Floor(self.digits[1:], self.is_strict)


@dataclass(frozen=True, slots=True)
class _Ceiling:
    """What the rest of a fraction must not go beyond."""

    digits: str
    is_strict: bool

    @property
    def is_met(self) -> bool:
        """By nothing but zeros."""
        return bool(self.digits) or not self.is_strict

    def after(self, digit: str) -> _Ceiling | None | bool:
        """What is left after this digit: None if nothing, False if it is beyond."""
        allowed = self.digits[:1] or "0"
        if digit != allowed:
            return None if digit < allowed else False
        return _Ceiling(self.digits[1:], self.is_strict)


def _fraction(above: _Floor | None, below: _Ceiling | None, room: int) -> Pattern:
    """Nothing, or a point and 1 … room digits, so that the value lies between."""
    options: list[Pattern] = []
    if (above is None or above.is_met) and (below is None or below.is_met):
        options.append(EPSILON)
    if room > 0:
        options.append(Concat((literal("."), _fraction_digits(above, below, room, least=1))))
    return Choice(tuple(options))


def _fraction_digits(
    above: _Floor | None, below: _Ceiling | None, room: int, *, least: int
) -> Pattern:
    if above is None and below is None:
        return _any_digits(least, room)
    options: list[Pattern] = []
    if not least and (above is None or above.is_met) and (below is None or below.is_met):
        options.append(EPSILON)
    free = ""
    for digit in "0123456789" if room else "":
        next_above = above and above.after(digit)
        next_below = below and below.after(digit)
        if next_above is False or next_below is False:
            continue
        if next_above is None and next_below is None:
            free += digit
            continue
        assert not isinstance(next_above, bool) and not isinstance(next_below, bool)
        rest = _fraction_digits(next_above, next_below, room - 1, least=0)
        options.append(Concat((literal(digit), rest)))
    if free:
        options.append(Concat((_digit(free[0], free[-1]), _any_digits(0, room - 1))))
    return Choice(tuple(options))


def _digit(first: str, last: str) -> Pattern:
    return Set(charsets.union([(ord(first), ord(last))]))


def _any_digits(low: int, high: int) -> Pattern:
    return Times(Set(DIGITS), low, high) if high else EPSILON
