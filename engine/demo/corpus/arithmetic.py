"""Small sums, counting and comparing. In: a random generator and the split. Out: one exchange."""

from __future__ import annotations

import random
from collections.abc import Callable

from corpus.document import Message
from corpus.phrases import choose
from corpus.words import Words

Exchange = tuple[str, str]


def _own(words: Words, draw: Callable[[], tuple[int, int]]) -> tuple[int, int]:
    """Return a pair of numbers that belongs to the split.

    Sums of numbers up to ten are learned by heart, so those pairs belong to both.
    """
    while True:
        a, b = draw()
        if max(a, b) <= 10 or words.has(f"{a}|{b}"):
            return a, b


def _sum(rng: random.Random, words: Words) -> Exchange:
    top = rng.choice([10, 10, 20])
    a, b = _own(words, lambda: (rng.randint(0, top), rng.randint(0, top)))
    if rng.random() < 0.4:
        a, b = max(a, b), min(a, b)
        sign, word, result = "-", "minus", a - b
    else:
        sign, word, result = "+", "plus", a + b
    question = rng.choice([f"[What is|How much is|Calculate|] {a} {s} {b}" for s in (sign, word)])
    answer = f"[{a} {sign} {b} = {result}|{a} {word} {b} is {result}|{a} {word} {b} is {result}.]"
    return question + rng.choice(["?", "?", "", " ="]), answer


def _product(rng: random.Random, words: Words) -> Exchange:
    a, b = _own(words, lambda: (rng.randint(0, 10), rng.randint(0, 10)))
    question = f"[What is|How much is|Calculate|] {a} [times|x|*|multiplied by] {b}[?|?|]"
    return question, f"{a} times {b} is {a * b}."


def _count(rng: random.Random, words: Words) -> Exchange:
    start, length = rng.choice([1, 1, 1, 2, 5, 10, 20]), rng.randint(3, 15)
    if rng.random() < 0.25:
        numbers = [str(n) for n in range(length, 0, -1)]
        question = f"[Count|Can you count|Please count] [down|backwards] from {length}[ to 1|]"
    else:
        numbers = [str(n) for n in range(start, start + length)]
        goal = f"to {numbers[-1]}" if start == 1 else f"from {start} to {numbers[-1]}"
        question = f"[Count|Can you count|Please count] {goal}"
    return question + rng.choice([".", "?", ""]), ", ".join(numbers) + "[.|]"


def _neighbour(rng: random.Random, words: Words) -> Exchange:
    n = rng.randint(1, 98)
    if rng.random() < 0.6:
        return f"[What|Which number] comes after {n}?", f"After {n} comes {n + 1}."
    return f"[What|Which number] comes before {n}?", f"Before {n} comes {n - 1}."


def _compare(rng: random.Random, words: Words) -> Exchange:
    a, b = _own(words, lambda: (rng.randint(0, 99), rng.randint(0, 99)))
    if a == b:
        b += 1
    word, pick = rng.choice([("bigger", max), ("larger", max), ("smaller", min)])
    other = min(a, b) if pick is max else max(a, b)
    question = f"[Which|Which number|What] is {word}, {a} or {b}?"
    return question, f"{pick(a, b)} is {word} than {other}."


def _parity(rng: random.Random, words: Words) -> Exchange:
    n = rng.randint(0, 99)
    word = ("even", "odd")[n % 2]
    if rng.random() < 0.5:
        return f"Is {n} even or odd?", f"{n} is {word}."
    asked = rng.choice(["even", "odd"])
    verdict = f"Yes, {n} is {word}." if asked == word else f"No, {n} is {word}."
    return f"Is {n} {asked}?", verdict


def _story_sum(rng: random.Random, words: Words) -> Exchange:
    a, b = _own(words, lambda: (rng.randint(2, 10), rng.randint(1, 9)))
    name = words.pick(rng, "name")["name"]
    things = words.pick(rng, "animal")["plural"] if rng.random() < 0.3 else None
    things = things or words.pick(rng, "fruit")["plural"]
    if rng.random() < 0.5 or a <= b:
        question = f"{name} has {a} {things} and gets {b} more."
        answer = f"{a} + {b} = {a + b}, so {name} has {a + b} {things}."
    else:
        question = f"{name} has {a} {things} and gives away {b}."
        answer = f"{a} - {b} = {a - b}, so {name} has {a - b} {things} left."
    return f"{question} How many {things} does {name} have now?", answer


def _sort(rng: random.Random, words: Words) -> Exchange:
    """Return a short list to sort: numbers by size, words by their first letters."""
    length = rng.randint(3, 5)
    if rng.random() < 0.6:
        numbers = sorted(rng.sample(range(100 if rng.random() < 0.7 else 10), length))
        row, kind = [str(n) for n in numbers], "numbers"
    else:
        table = rng.choice(["fruit", "animal", "thing", "word"])
        by_letter = {word[0]: word for word in _names(rng, words, table, 12)}
        letters = rng.sample(sorted(by_letter), min(length, len(by_letter)))
        row, kind = [by_letter[letter] for letter in sorted(letters)], "words"
    mixed = rng.sample(row, len(row))
    if kind == "numbers" and rng.random() < 0.25:
        row.reverse()
        order = " from [big to small|the biggest to the smallest]"
    else:
        order = "[ from small to big| from the smallest to the biggest|]"
        order = order if kind == "numbers" else "[ alphabetically| by alphabet|]"
    question = f"[Sort|Please sort|Order] these {kind}{order}: {', '.join(mixed)}"
    return question, ", ".join(row)


def _names(rng: random.Random, words: Words, table: str, count: int) -> list[str]:
    return [next(iter(words.pick(rng, table).values())) for _ in range(count)]


KINDS = (
    _sum, _sum, _sum, _product, _count, _count, _neighbour, _compare, _parity, _story_sum,
    _sort, _sort,
)  # fmt: skip


def arithmetic(rng: random.Random, words: Words) -> list[Message | None]:
    """Return one question about numbers with its answer."""
    question, answer = rng.choice(KINDS)(rng, words)
    question = choose(rng, question).strip()
    return [
        Message("user", question[:1].upper() + question[1:]),
        Message("assistant", choose(rng, answer)),
    ]


def counting(rng: random.Random, words: Words) -> str:
    """Return a row of numbers, as plain text: by one, two, five or ten, upwards or downwards."""
    step, length = rng.choice([1, 1, 1, 1, 2, 5, 10]), rng.randint(8, 20)
    start = rng.choice([0, step, step, step, step * rng.randint(2, 9)])
    row = [start + step * n for n in range(length)]
    row = row[::-1] if rng.random() < 0.2 else row
    separator = rng.choice([", ", ", ", " ", "\n"])
    return separator.join(str(n) for n in row)
