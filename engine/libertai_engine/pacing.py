"""How much of a prompt a step may evaluate while others read their answers.

In: how long each step took, and how many tokens of answers and of prompts it evaluated. Out: a
number of prompt tokens. A long prompt that joins would otherwise stop every answer for as long as a
whole batch of it takes, which is seconds on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LEAST = 16  # prompt tokens in a step, whatever they cost: fewer are hardly cheaper
NEWS = 0.3  # share of a new measurement in a mean
OUTLIER = 3.0  # times the mean is the most that a measurement counts for


class Pacer:
    """A limit to the prompt tokens of a step, such that they add `seconds` to it.

    What a token adds is measured: the time of a step with prompts less that of steps without. A
    step of prompts alone has no limit but `batch_size`. `seconds` 0 switches the limit off.
    """

    def __init__(
        self, batch_size: int, seconds: float, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._batch_size = batch_size
        self._seconds = seconds
        self._clock = clock
        self._step: tuple[int, int, float] | None = None
        self._plain: float | None = None  # seconds of a step without prompts
        self._cost: float | None = None  # seconds that a prompt token adds

    def budget(self, num_others: int) -> int:
        """Prompt tokens for a step that evaluates `num_others` tokens of answers already.

        At least one, or a full set of answers would starve new prompts.
        """
        room = max(1, self._batch_size - num_others)
        if not self._seconds or not num_others:
            return room
        if self._cost is None:
            return min(room, LEAST)
        fitting = self._seconds / max(self._cost, 1e-9)
        return room if fitting >= room else min(room, max(LEAST, int(fitting) // LEAST * LEAST))

    def begin(self, num_others: int, num_prompt: int) -> None:
        """A step with so many tokens of answers and of prompts is about to run."""
        self._step = (num_others, num_prompt, self._clock())

    def end(self) -> None:
        """It has run. Counts once; a step that is not ended is not counted."""
        if self._step is None:
            return
        num_others, num_prompt, begun = self._step
        self._step = None
        seconds = self._clock() - begun
        if not num_prompt:
            self._plain = _mean(self._plain, seconds)
            return
        plain = self._plain or 0.0 if num_others else 0.0
        self._cost = _mean(self._cost, max(seconds - plain, 0.0) / num_prompt)


def _mean(old: float | None, new: float) -> float:
    if old is None:
        return new
    return old + NEWS * (min(new, OUTLIER * old) - old) if old else new
