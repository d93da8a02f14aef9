"""How many tokens of a prompt join a step, by a clock that the tests move."""

from __future__ import annotations

import pytest

from libertai_engine.pacing import LEAST, Pacer


class Machine:
    """Runs the steps of a pacer: `plain` seconds for any step, `cost` for each prompt token."""

    def __init__(self, plain: float, cost: float, *, target: float = 0.1, batch: int = 512) -> None:
        self.plain, self.cost = plain, cost
        self.now = 0.0
        self.pacer = Pacer(batch, target, clock=lambda: self.now)

    def step(self, num_others: int, num_prompt: int) -> float:
        """Its seconds."""
        self.pacer.begin(num_others, num_prompt)
        seconds = self.plain * (num_others > 0) + self.cost * num_prompt
        self.now += seconds
        self.pacer.end()
        return seconds

    def join(self, num_others: int) -> list[float]:
        """The seconds of ten steps that a long prompt joins."""
        return [self.step(num_others, self.pacer.budget(num_others)) for _ in range(10)]


@pytest.mark.parametrize(("plain", "cost"), [(0.11, 0.0055), (0.02, 0.0004), (0.003, 0.001)])
def test_prompts_add_the_time_that_they_may(plain: float, cost: float) -> None:
    """To within a group of tokens, whatever the machine; the first steps are careful."""
    machine = Machine(plain, cost)
    for _ in range(5):
        machine.step(4, 0)
    seconds = machine.join(4)
    assert all(each <= plain + 0.1 + 1e-9 for each in seconds)
    assert seconds[-1] >= plain + 0.1 - LEAST * cost


def test_a_prompt_alone_has_the_whole_batch() -> None:
    """Nobody waits for anything else; and with 0 there is no limit at all."""
    machine = Machine(0.1, 0.01)
    machine.join(3)
    assert machine.pacer.budget(0) == 512
    assert Machine(0.1, 0.01, target=0.0).pacer.budget(12) == 500


def test_a_slow_machine_still_takes_some_tokens() -> None:
    """A prompt is never starved; nor is a batch that answers have filled."""
    machine = Machine(1.0, 0.5)
    machine.join(2)
    assert machine.pacer.budget(2) == LEAST
    assert Machine(0.1, 0.01, batch=4).pacer.budget(4) == 1


def test_a_fast_machine_takes_all_that_fits() -> None:
    """What costs next to nothing is not held back."""
    machine = Machine(0.001, 0.0)
    machine.step(8, 0)
    machine.join(8)
    assert machine.pacer.budget(8) == 504


def test_a_single_slow_step_does_not_change_much() -> None:
    """The machine was asleep, say."""
    machine = Machine(0.1, 0.001)
    machine.step(1, 0)
    machine.join(1)
    before = machine.pacer.budget(1)
    machine.cost = 10.0
    machine.step(1, before)
    machine.cost = 0.001
    assert machine.pacer.budget(1) >= before / 2
    machine.join(1)
    assert machine.pacer.budget(1) >= 0.9 * before


def test_a_step_that_failed_is_not_counted() -> None:
    """Its end never comes; an end without a beginning says nothing."""
    machine = Machine(0.1, 0.01)
    machine.pacer.begin(1, 100)
    machine.now += 1000
    machine.pacer.begin(1, 10)
    machine.now += 0.1
    machine.pacer.end()
    budget = machine.pacer.budget(1)
    machine.now += 1000
    machine.pacer.end()
    assert machine.pacer.budget(1) == budget
