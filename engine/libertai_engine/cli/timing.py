"""Times of an engine's answers to random prompts, for `libertai-engine bench`.

In: an engine. Out: `Figure`s, each with the values of all rounds.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from libertai_engine.engine import Engine
from libertai_engine.sampling_params import SamplingParams
from libertai_engine.sequence import Request

TAIL = 8  # tokens of a prompt that are new where the rest is cached
GREEDY = SamplingParams(temperature=0.0, repeat_penalty=1.0, ignore_eos=True)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked: prompts of `prompt` tokens, `new` ones each, so many streams at once."""

    prompt: int
    new: int
    streams: tuple[int, ...]
    rounds: int


@dataclass(slots=True)
class Figure:
    """One line of the table: what, its unit, a value a round."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        """Median and range, for people."""
        low, high = min(self.values), max(self.values)
        return f"{_short(self.median)} {self.unit} ({_short(low)} to {_short(high)})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def measure(engine: Engine, plan: Plan) -> Iterator[list[Figure]]:
    """All figures, after each round; the first round warms up and counts nothing."""
    prefill, decode = Figure("prompt", "tokens/s"), Figure("answer", "tokens/s")
    cold, cached = Figure("first token", "ms"), Figure("first token, prompt cached", "ms")
    totals = [Figure(f"{count} streams at once", "tokens/s") for count in plan.streams if count > 1]
    figures = [prefill, decode, cold, cached, *totals]
    draw = random.Random(0)
    for number in range(plan.rounds + 1):
        ids = _ids(engine, draw, plan.prompt)
        times = _answer(engine, [ids], plan.new)[0]
        warm = _answer(engine, [ids[:-TAIL] + _ids(engine, draw, TAIL)], 1, keeps=True)[0]
        rates = [_total(engine, draw, plan, count) for count in plan.streams if count > 1]
        if number:
            prefill.values.append(plan.prompt / times[0])
            decode.values.append((len(times) - 1) / (times[-1] - times[0]))
            cold.values.append(1e3 * times[0])
            cached.values.append(1e3 * warm[0])
            for figure, rate in zip(totals, rates, strict=True):
                figure.values.append(rate)
        yield figures


def _ids(engine: Engine, draw: random.Random, count: int) -> list[int]:
    size = engine.tokenizer.vocab_size
    allowed = range(min(300, size // 2), size)  # no control tokens, no bytes
    return draw.choices(allowed, k=count)


def _total(engine: Engine, draw: random.Random, plan: Plan, count: int) -> float:
    """Tokens a second of all streams together, short prompts included."""
    prompts = [_ids(engine, draw, TAIL) for _ in range(count)]
    times = _answer(engine, prompts, plan.new)
    return sum(map(len, times)) / max(each[-1] for each in times)


def _answer(
    engine: Engine, prompts: list[list[int]], new: int, *, keeps: bool = False
) -> list[list[float]]:
    """For each prompt, seconds from now on when each of its tokens came."""
    begin = time.perf_counter()
    times: list[list[float]] = [[] for _ in prompts]
    requests = [
        Request(
            prompt_ids=tuple(ids), sampling=GREEDY, max_tokens=new, cache_prompt=keeps, index=index
        )
        for index, ids in enumerate(prompts)
    ]
    for delta in engine.submit(*requests):
        now = time.perf_counter() - begin
        found = times[delta.index]
        # NOTE: a token that leaves a character unfinished is told of with the one that ends it.
        told = delta.finish.num_generated - len(found) if delta.finish else len(delta.tokens)
        found += [now] * (told if delta.finish else max(1, told))
    return times
