"""What is learned, in which shares. In: a seed and a split. Out: an endless stream of documents.

1. `sources` gives every way to make an exchange, with its weight: books, sums, lists of steps.
2. `conversation` strings exchanges together; the gaps of a block are filled by others.
3. `documents` writes them down as ChatML, as lines of dialogue, or as plain text.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from corpus.agents import calling, choosing, filling
from corpus.arithmetic import arithmetic, counting
from corpus.books import Book, perform, read_books
from corpus.document import Document, Message, Segment, chatml, dialogue, plain
from corpus.extraction import extraction
from corpus.phrases import Filler
from corpus.reacting import reacting
from corpus.reading import reading
from corpus.steps import Task, read_tasks, steps_exchange, steps_text
from corpus.values import MADE_UP
from corpus.words import Split, Words

HERE = Path(__file__).parent
Source = Callable[[random.Random, Words], list[Message | None]]
ARITHMETIC_WEIGHT = 9.0
STEPS_WEIGHT = 12.0
STATEFUL = ("memory", "strangers", "roles")
# Books in whose questions nothing depends on capital letters.
CARELESS = ("smalltalk", "newcomers", "identity", "facts", "yesno", "feelings", "explanations")
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "You are a helpful, friendly assistant. [Answer|Reply] in short sentences.",
    "You are [a kind teacher|a chat bot|an AI assistant|a useful assistant].",
    "Answer the questions of the user.",
    "Be [short|brief|kind|friendly][ and clear|].",
)
SPEAKERS = (
    ("User", "Assistant"),
    ("User", "Assistant"),
    ("User", "Assistant"),
    ("Human", "AI"),
    ("Human", "Assistant"),
    ("Q", "A"),
    ("Question", "Answer"),
)
PREFACE = (
    "The following is a [friendly |]conversation between a [human|user] and an [AI|assistant].\n\n"
)


@dataclass(frozen=True, slots=True)
class World:
    """Everything that documents are made of, for one split. Invariant: never changes."""

    words: Words
    books: dict[str, Book]
    tasks: tuple[Task, ...]

    @classmethod
    def load(cls, split: Split) -> World:
        """Read all tables and books. Raises ValueError for one that is badly written."""
        return cls(Words.load(split), read_books(), read_tasks())


def fingerprint() -> str:
    """Return a checksum of everything that decides what the documents say."""
    files = sorted(path for path in HERE.rglob("*") if path.suffix in {".py", ".txt"})
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def _open(book: Book, rng: random.Random, words: Words) -> list[Message | None]:
    played = perform(rng.choice(book.blocks), Filler(rng, words))
    if book.name in CARELESS and rng.random() < 0.15:
        return [_careless(message) if message else None for message in played]
    return played


def _careless(message: Message) -> Message:
    """Return what a user says as people type it."""
    if message.role != "user":
        return message
    return Message("user", message.content.lower().rstrip("?.!") or message.content)


def sources(world: World, *, stateful: bool) -> tuple[list[Source], list[float]]:
    """Return the ways to make an exchange, and weights; stateful ones only open a conversation."""
    books = [book for book in world.books.values() if stateful or book.name not in STATEFUL]
    ways: list[Source] = [partial(_open, book) for book in books]
    weights = [book.weight for book in books]
    ways += [arithmetic, partial(steps_exchange, tasks=world.tasks)]
    return ways, [*weights, ARITHMETIC_WEIGHT, STEPS_WEIGHT]


def _some(rng: random.Random, world: World, counts: list[int]) -> list[Message]:
    """Return a few exchanges that depend on nothing said before."""
    ways, weights = sources(world, stateful=False)
    chosen = rng.choices(ways, weights, k=rng.choice(counts))
    played = [message for way in chosen for message in way(rng, world.words)]
    return [message for message in played if message is not None]


def conversation(rng: random.Random, world: World, extra: list[int]) -> list[Message]:
    """Return a whole conversation; `extra`: how many exchanges may follow the first block."""
    ways, weights = sources(world, stateful=True)
    messages: list[Message] = []
    for message in rng.choices(ways, weights)[0](rng, world.words):
        messages += [message] if message else _some(rng, world, [0, 0, 1, 1, 2, 3])
    if messages[0].role != "system" and rng.random() < 0.3:
        system = Filler(rng, world.words).fill(rng.choice(SYSTEMS))
        messages.insert(0, Message("system", system))
    return messages + _some(rng, world, extra)


def _chat(rng: random.Random, world: World) -> Document:
    return chatml("chat", conversation(rng, world, [0, 0, 1, 1, 1, 2, 2, 3]))


def _long_chat(rng: random.Random, world: World) -> Document:
    return chatml("long chat", conversation(rng, world, [6, 8, 10]))


def _dialogue(rng: random.Random, world: World) -> Document:
    while True:
        messages = conversation(rng, world, [0, 0, 1, 2])
        # What a system message asks for, a way to speak for instance, is not there in such lines.
        if not any(each.role == "system" or "\n" in each.content for each in messages):
            break
    gap = rng.choice(["", " "])
    written = dialogue("dialogue", messages, rng.choice(SPEAKERS), gap)
    if rng.random() < 0.1:
        preface = plain("", Filler(rng, world.words).fill(PREFACE))
        return Document(written.kind, preface.segments + written.segments)
    return written


def _answer(rng: random.Random, world: World) -> Document:
    """Return what an assistant would say, as a text of its own."""
    book = world.books[rng.choice(["stories", "stories", "explanations", "facts", "facts"])]
    played = _open(book, rng, world.words)
    answers = [message.content for message in played if message and message.role == "assistant"]
    return plain(book.name, answers[0])


def _facts(rng: random.Random, world: World) -> Document:
    """Return a few sentences about the world, one after the other."""
    book = world.books["sentences"]
    texts = [_open(book, rng, world.words)[-1] for _ in range(rng.choice([1, 1, 2, 3, 4]))]
    return plain("facts", rng.choice([" ", "\n"]).join(text.content for text in texts if text))


def _steps(rng: random.Random, world: World) -> Document:
    return steps_text(rng, world.words, world.tasks)


def _counting(rng: random.Random, world: World) -> Document:
    return plain("counting", counting(rng, world.words))


def _values(rng: random.Random, words: Words, count: int) -> list[str]:
    """Return words, names, numbers and the like; in some rows all of one sort."""
    kinds = ["word", "word", "name", "thing", "number", "animal", *MADE_UP]
    if rng.random() < 0.3:
        kinds = [rng.choice(["cjk", "code", "accented", "digits", "person", "mail"])]
    return [next(iter(words.pick(rng, rng.choice(kinds)).values())) for _ in range(count)]


def _echo(rng: random.Random, world: World) -> Document:
    """Return a row of words and the same row again: the shortest way to learn to copy."""
    row = _values(rng, world.words, rng.randint(1, 9))
    separator = rng.choice([" ", ", ", "\n", " - "])
    text = separator.join(row)
    again = "".join(f"\n{text}" for _ in range(rng.choice([1, 1, 2])))
    return Document("echo", (Segment(text, False), Segment(again, True)))


def _pairs(rng: random.Random, world: World) -> Document:
    """Return keys with values, and the same again in another order: the shortest looking up."""
    values = _values(rng, world.words, 2 * rng.randint(2, 8))
    pairs = dict(zip(values[::2], values[1::2], strict=True))
    form = rng.choice(["{}: ", "{} = ", "{} has ", '"{}": "', "The {} is "])
    end = '"' if form.endswith('"') else rng.choice(["", ".", ";"])
    told = "".join(f"{form.format(key)}{value}{end}\n" for key, value in pairs.items())
    asked = rng.sample(sorted(pairs), rng.randint(1, len(pairs)))
    segments = [Segment(told, False)]
    for key in asked:
        asking, value = f"{form.format(key)}{pairs[key]}{end}\n", f"{pairs[key]}{end}\n"
        start = asking.removesuffix(value)
        # The blank in front of a value is tokenised with it, as in the text above.
        segments += [Segment(start.rstrip(" "), False)]
        segments += [Segment(asking.removeprefix(start.rstrip(" ")), True)]
    return Document("pairs", tuple(segments))


def _looking_up(rng: random.Random, world: World) -> Document:
    """Return one exchange whose answer stands in the question or further up."""
    book = world.books[rng.choice(["copying", "copying", "reading", "memory", "roles"])]
    played = [message for message in _open(book, rng, world.words) if message]
    return chatml("looking up", played)


def _quiz(rng: random.Random, world: World) -> Document:
    """Return many short questions about what the tables know."""
    books = [world.books[name] for name in ("facts", "facts", "yesno", "yesno", "translation")]
    turns = range(rng.randint(5, 10))
    messages = [m for _ in turns for m in _open(rng.choice(books), rng, world.words) if m]
    return chatml("quiz", messages)


def _sums(rng: random.Random, world: World) -> Document:
    """Return a few questions about numbers."""
    turns = range(rng.randint(2, 6))
    messages = [message for _ in turns for message in arithmetic(rng, world.words) if message]
    return chatml("sums", messages)


def _kept(rng: random.Random, world: World) -> bool:
    """Return whether to use wordings that training never sees: in half of what is held out."""
    return world.words.split == "heldout" and rng.random() < 0.5


def _reading(rng: random.Random, world: World, longest: int) -> Document:
    """Return questions about a passage of up to `longest` sentences."""
    length, kept = rng.randint(max(1, longest // 3), longest), _kept(rng, world)
    return chatml("reading", reading(rng, world.words, length, kept=kept))


def _extraction(rng: random.Random, world: World) -> Document:
    return chatml("extraction", extraction(rng, world.words, kept=_kept(rng, world)))


def _small_talk(rng: random.Random, world: World) -> list[Message]:
    """Return an exchange that no tool could help with."""
    book = world.books[rng.choice(["smalltalk", "newcomers", "identity", "feelings", "jokes"])]
    return [message for message in _open(book, rng, world.words) if message]


def _tools(rng: random.Random, world: World, most: int) -> Document:
    """Return a conversation with tools, or an object that must be given as a call."""
    if rng.random() < 0.15:
        return chatml("tools", filling(rng, world.words, kept=_kept(rng, world)))
    small_talk = _small_talk(rng, world)
    kept = _kept(rng, world)
    count = rng.choice([1, *range(2, most + 1), *range(2, most + 1)])
    return chatml("tools", calling(rng, world.words, count, small_talk, kept=kept))


def _choosing(rng: random.Random, world: World) -> Document:
    """Return questions for the name of the right tool."""
    kept = _kept(rng, world)
    return chatml("choosing", choosing(rng, world.words, rng.randint(2, 5), kept=kept))


def _reacting(rng: random.Random, world: World) -> Document:
    """Return tool use in lines of plain text."""
    kept = _kept(rng, world)
    return chatml("reacting", reacting(rng, world.words, rng.choice([1, 2, 2]), kept=kept))


Shape = tuple[Callable[[random.Random, World], Document], float]
SHORT_READING, READING = partial(_reading, longest=4), partial(_reading, longest=12)
LONG_READING = partial(_reading, longest=36)
ONE_TOOL, SOME_TOOLS = partial(_tools, most=1), partial(_tools, most=3)
# NOTE: without this beginning, a small model learns whole sentences long before it learns to look
# up and copy, and stays bad at it.
BEGINNING: tuple[Shape, ...] = (
    (_echo, 30.0),
    (_pairs, 30.0),
    (_looking_up, 30.0),
    (SHORT_READING, 10.0),
)
MIXTURE: tuple[Shape, ...] = (
    (_chat, 32.0),
    (_long_chat, 2.0),
    (_looking_up, 10.0),
    (_echo, 3.0),
    (_pairs, 3.0),
    (_sums, 4.0),
    (_dialogue, 7.0),
    (_answer, 4.0),
    (_facts, 2.0),
    (_steps, 5.0),
    (_counting, 1.0),
    (SHORT_READING, 14.0),
    (_extraction, 12.0),
    (ONE_TOOL, 12.0),
    (SOME_TOOLS, 3.0),
)
# What is long or hard, once the rest is known.
ENDING: tuple[Shape, ...] = (
    (_chat, 80.0),
    (_quiz, 5.0),
    (_long_chat, 0.5),
    (_looking_up, 26.0),
    (_echo, 6.0),
    (_pairs, 7.0),
    (_sums, 6.0),
    (_dialogue, 14.0),
    (_answer, 7.0),
    (_facts, 1.0),
    (_steps, 12.0),
    (_counting, 1.0),
    (SHORT_READING, 54.0),
    (READING, 26.0),
    (LONG_READING, 7.0),
    (_extraction, 26.0),
    (ONE_TOOL, 18.0),
    (SOME_TOOLS, 44.0),
    (_choosing, 10.0),
    (_reacting, 6.0),
)


def documents(seed: int, world: World, mixture: tuple[Shape, ...] = MIXTURE) -> Iterator[Document]:
    """Yield documents for ever; the same seed and split give the same ones on every machine."""
    rng = random.Random(f"{world.words.split} {seed}")
    shapes, weights = zip(*mixture, strict=True)
    while True:
        yield rng.choices(shapes, weights)[0](rng, world)
