"""JSON numbers that satisfy given schemas.

In: the schemas that hold for one number. Out: the automaton of its numerals, None where any number
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

from libertai_llm.gbnf import automata, numbers
from libertai_llm.gbnf.automata import Automaton
from libertai_llm.gbnf.numbers import Bound
from libertai_llm.gbnf.patterns import PatternError
from libertai_llm.gbnf.places import Place

MAX_DIVISOR = 1_000
_KEYWORDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


def numerals(leaves: Sequence[Place], *, is_integer: bool) -> Automaton | None:
    """The numerals that satisfy all the schemas; None: they ask for nothing."""
    asking = [place for place in leaves if any(place.has(keyword) for keyword in _KEYWORDS)]
    if not asking:
        return None
    divisors = [divisor for place in asking if (divisor := _divisor(place))]
    low = _tightest([bound(place, "Minimum") for place in asking], "Minimum")
    high = _tightest([bound(place, "Maximum") for place in asking], "Maximum")
    try:
        whole = is_integer or bool(divisors)
        pattern = numbers.integers(low, high) if whole else numbers.decimals(low, high)
        found = automata.from_pattern(pattern)
        for divisor in divisors:
            found = automata.intersection(found, automata.multiples(divisor))
    except PatternError as error:
        raise asking[0].error(f"these numbers are beyond us: {error}") from None
    return found


def bound(place: Place, side: str) -> Bound | None:
    """The place's own `Minimum` or `Maximum`, the tighter of the including and the excluding.

    Reads draft 4 as well, where `exclusiveMinimum` is true or false.
    """
    value, keyword = place.number(side.lower()), f"exclusive{side}"
    if isinstance(place.get(keyword), bool):
        return None if value is None else Bound(value, bool(place.get(keyword)))
    excluded = place.number(keyword)
    return _tightest(
        [
            None if value is None else Bound(value),
            None if excluded is None else Bound(excluded, True),
        ],
        side,
    )


def is_within(place: Place, value: float) -> bool:
    """Whether a number satisfies the place's keywords about numbers."""
    exact = Decimal(repr(value))
    low, high, step = bound(place, "Minimum"), bound(place, "Maximum"), place.number("multipleOf")
    return (
        (low is None or exact > low.value or (exact == low.value and not low.is_strict))
        and (high is None or exact < high.value or (exact == high.value and not high.is_strict))
        # NOTE: decimals have no remainder of a quotient of more than 28 digits.
        and (not step or Fraction(exact) % Fraction(step) == 0)
    )


def _tightest(bounds: Sequence[Bound | None], side: str) -> Bound | None:
    given = [each for each in bounds if each is not None]
    if side == "Minimum":
        return max(given, key=lambda each: (each.value, each.is_strict), default=None)
    return min(given, key=lambda each: (each.value, not each.is_strict), default=None)


def _divisor(place: Place) -> int | None:
    value = place.number("multipleOf")
    if value is None:
        return None
    if value <= 0:
        raise place.error("expected a number above 0", "multipleOf")
    if value != int(value) or value > MAX_DIVISOR:
        raise place.error(
            f"multiples of whole numbers up to {MAX_DIVISOR} only can be told", "multipleOf"
        )
    return int(value)
