"""How to do things, step by step. In: steps.txt. Out: numbered lists, as plain text and as answers.

A block of steps.txt opens with `# doing it | do it`; its lines are the steps in their order. A list
of n steps leaves some out, so that the same task is told at any length.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from corpus.document import Document, Message, plain
from corpus.phrases import Filler, capital, choose
from corpus.words import Words

STEPS = Path(__file__).parent / "steps.txt"
NUMBER_WORDS = ("", "", "", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
HEADINGS = (
    "{doing} can be done in {n} [simple|easy] steps:",
    "{doing} can be done in {n} simple steps:",
    "{doing} in {n} [simple|easy] steps:",
    "{n} [simple|easy] steps to {do}:",
    "Here are {n} [simple |easy |]steps to {do}:",
    "How to {do} in {n} steps:",
)
QUESTIONS = (
    "How [do|can|would] [I|you|we] {do}?",
    "How to {do}?",
    "[Tell|Teach|Show] me how to {do}.",
    "[Explain|Describe] how to {do}[ in {n} steps|].",
    "[Give|Write] me {n} steps [to {do}|for {doing}].",
    "[What are the|List the|I need] steps [to {do}|for {doing}][?|.]",
    "I want to {do}. [What should I do?|Can you help me?|How do I start?]",
    "{doing} can be done in {n} simple steps:",
)
COUNTED = (
    "[Give|Tell|Write] me {n} steps [to {do}|for {doing}].",
    "[What are|List|I need|Name] {n} steps to {do}[?|.]",
    "How [do I|can I|do you] {do} in {n} [simple |]steps?",
    "[Explain|Describe|Tell me] how to {do} in {n} steps.",
    "{n} steps to {do}, please.",
)
OPENINGS = (
    "Here are {n} [simple |]steps to {do}:\n",
    "You can {do} in {n} [simple|easy] steps:\n",
    "[Sure|Of course]! Here is how to {do}:\n",
    "",
)


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to do. Invariant: at least three steps, in the order in which they are done."""

    doing: str
    do: str
    steps: tuple[str, ...]


def read_tasks() -> tuple[Task, ...]:
    """Return the tasks of steps.txt. Raises ValueError for a task of fewer than three steps."""
    tasks = []
    for block in STEPS.read_text(encoding="utf-8").strip().split("\n\n"):
        head, *steps = block.splitlines()
        doing, do = (part.strip() for part in head.lstrip("# ").split("|"))
        if len(steps) < 3:
            raise ValueError(f"too few steps: {head!r}")
        tasks.append(Task(doing, do, tuple(steps)))
    return tuple(tasks)


def _list(filler: Filler, task: Task, count: int, style: str) -> str:
    kept = sorted(filler.rng.sample(range(len(task.steps)), count))
    lines = [filler.fill(task.steps[index]) for index in kept]
    return "\n".join(style.format(n=n) + line for n, line in enumerate(lines, start=1))


def _count(rng: random.Random, task: Task) -> int:
    most = min(10, len(task.steps))
    return most if rng.random() < 0.2 else rng.randint(2, most)


def _fill(filler: Filler, template: str, task: Task, count: int) -> str:
    word = NUMBER_WORDS[count] if filler.rng.random() < 0.25 else str(count)
    words = {"{n}": word, "{doing}": task.doing, "{do}": task.do}
    for slot, value in words.items():
        template = template.replace(slot, value)
    return capital(filler.fill(template))


def steps_text(rng: random.Random, words: Words, tasks: tuple[Task, ...]) -> Document:
    """Return a heading and its list as plain text; the heading is the prompt."""
    task, filler = rng.choice(tasks), Filler(rng, words)
    count = _count(rng, task)
    heading = _fill(filler, rng.choice(HEADINGS), task, count)
    style = "Step {n}: " if rng.random() < 0.12 else "{n}. "
    return plain("steps", "\n" + _list(filler, task, count, style), prompt=heading)


def steps_exchange(
    rng: random.Random, words: Words, tasks: tuple[Task, ...]
) -> list[Message | None]:
    """Return a question how to do something and the list as the answer."""
    task, filler = rng.choice(tasks), Filler(rng, words)
    template = choose(rng, rng.choice(COUNTED if rng.random() < 0.4 else QUESTIONS))
    count = _count(rng, task) if "{n}" in template else min(len(task.steps), rng.randint(3, 7))
    question = _fill(filler, template, task, count)
    opening = _fill(filler, rng.choice(OPENINGS), task, count)
    answer = opening + _list(filler, task, count, "{n}. ")
    return [Message("user", question), Message("assistant", answer)]
