"""What steps take, by what they do: learned from every step, so that drafts can be weighed.

In: seconds of steps. Out: seconds that a step will take.
"""

from __future__ import annotations

FIRST_GUESS = 0.05  # of a step: what one token more may cost, before it was measured
NEWS = 0.25  # share of a new measurement in a mean, at least
OUTLIER = 3.0  # times the mean is the most that a measurement counts for


class _Mean:
    """A running mean that begins with a guess."""

    def __init__(self, guess: float) -> None:
        self.value = guess
        self._count = 1

    def add(self, value: float) -> None:
        """One more."""
        self._count += 1
        self.value += max(NEWS, 1 / self._count) * (value - self.value)


class StepCosts:
    """What steps take, in seconds, by their rows and the tokens drafted on top of them.

    Invariant: where anything is known of a number of rows, the plain step is.
    """

    def __init__(self) -> None:
        self._means: dict[int, dict[int, _Mean]] = {}

    def observe(self, num_rows: int, num_drafted: int, seconds: float) -> None:
        """A step of `num_rows` rows with this many drafted tokens took so long."""
        expected = self.of(num_rows, num_drafted)
        if expected is None:
            if not num_drafted:
                self._means[num_rows] = {0: _Mean(seconds)}
            return
        means = self._means[num_rows]
        # NOTE: a measurement that is far off (a page to load, another program) must not be the
        # only one for ever, which it would be if it made this number of tokens look too dear.
        means.setdefault(num_drafted, _Mean(expected)).add(min(seconds, OUTLIER * expected))

    def of(self, num_rows: int, num_drafted: int) -> float | None:
        """What such a step will take, from those nearest to it; None if none was measured."""
        means = self._means.get(num_rows)
        if means is None:
            return None
        if num_drafted in means:
            return means[num_drafted].value
        below = max(each for each in means if each < num_drafted)
        above = min((each for each in means if each > num_drafted), default=None)
        low, steps = means[below].value, num_drafted - below
        if above is None:
            return low + FIRST_GUESS * means[0].value * steps
        return low + (means[above].value - low) * steps / (above - below)

    def reach(self, num_rows: int) -> int:
        """The most drafted tokens that may be tried: twice what was, so that no step surprises."""
        return 2 * max(self._means.get(num_rows, ()), default=0) or 1
