"""Held-out questions with their right answers. In: a seed. Out: conversations that wait for one.

Names, numbers and made-up words are those that training never sees. Where a kind has wordings that
training never sees either, `kept` asks for them.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from corpus.agents import NO_TOOL, choosing
from corpus.arithmetic import KINDS
from corpus.books import GAP, Block
from corpus.document import Message
from corpus.extraction import IN_ONE, WITH_SCHEMA, task
from corpus.mixture import World
from corpus.offering import Use, offers, unfitting, use
from corpus.phrases import Filler, capital, choose
from corpus.reacting import reacting
from corpus.reading import About, reading
from corpus.words import Words

Chat = list[dict[str, Any]]
Call = tuple[str, Mapping[str, Any]]
CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation that waits for an answer. Invariant: texts, calls or an object is right."""

    chat: Chat
    right: frozenset[str] = frozenset()
    tools: list[dict[str, Any]] = field(default_factory=list)
    calls: tuple[Call, ...] = ()
    schema: Mapping[str, Any] | None = None
    found: Mapping[str, Any] | None = None

    def accepts(self, text: str) -> bool:
        """Return whether an answer is right: the words, the calls, or the object."""
        if self.calls:
            return calls_in(text) == list(self.calls)
        if self.found is not None:
            return same(text, self.found)
        return text.strip() in self.right


def same(text: str, found: Mapping[str, Any]) -> bool:
    """Return whether a text is JSON of exactly this object, types and all."""
    try:
        return json.dumps(json.loads(text)) == json.dumps(found)
    except ValueError:
        return False


def calls_in(text: str) -> list[Call]:
    """Return the calls of an answer; one that is no JSON is a call without a name."""
    made: list[Call] = []
    for each in CALL.findall(text):
        try:
            call = json.loads(each)
            made.append((call["name"], call["arguments"]))
        except (ValueError, KeyError, TypeError):
            made.append(("", {}))
    return made


def variants(template: str) -> list[str]:
    """Return every text that `choose` can make of a template."""
    innermost = re.search(r"\[([^\[\]]*)\]", template)
    if innermost is None:
        return [template]
    made = (template[: innermost.start()] + part + template[innermost.end() :]
            for part in innermost[1].split("|"))  # fmt: skip
    return [text for each in made for text in variants(each)]


def said(role: str, content: str) -> dict[str, Any]:
    """Return one message."""
    return {"role": role, "content": content}


def book_question(block: Block, filler: Filler, world: World, gaps: int) -> Question:
    """Return a block played up to its last answer, with `gaps` sums in each gap."""
    steps = list(block)
    while steps[-1].mark != "=":
        steps.pop()
    chat: Chat = []
    for step in steps[:-1]:
        if step.mark == GAP:
            for _ in range(gaps):
                asked, answer = (choose(filler.rng, t) for t in KINDS[0](filler.rng, world.words))
                chat += [said("user", asked), said("assistant", answer)]
        else:
            role = {"!": "system", "?": "user", "=": "assistant"}[step.mark]
            chat.append(said(role, filler.fill(filler.rng.choice(step.templates))))
    # NOTE: brackets of JSON are no choices, and no answer of the books has them.
    right = {filler.fill(text).strip() for each in steps[-1].templates for text in variants(each)}
    return Question(chat, frozenset(right))


def from_book(name: str, world: World, rng: random.Random, *, gaps: int = 1) -> Question:
    """Return a question from a random block of one book."""
    block = rng.choice(world.books[name].blocks)
    return book_question(block, Filler(rng, world.words), world, gaps)


def memory(world: World, rng: random.Random) -> Question:
    """Return a question for something told three turns ago."""
    return from_book("memory", world, rng, gaps=2)


def numbers(world: World, rng: random.Random, kinds: tuple[Any, ...]) -> Question:
    """Return a question about numbers, or a list to sort."""
    asked, answer = rng.choice(kinds)(rng, world.words)
    text = capital(choose(rng, asked).strip())
    return Question([said("user", text)], frozenset(variants(answer)))


def read(
    words: Words,
    rng: random.Random,
    length: int,
    *,
    kept: bool = False,
    missing: float = 0.0,
    about: About | None = None,
) -> Question:
    """Return a question about a passage of `length` sentences."""
    return first_answer(reading(rng, words, length, kept=kept, missing=missing, about=about))


def _asked(words: Words, rng: random.Random, *, kept: bool, most: int) -> tuple[Use, list[Any]]:
    offered = offers(rng, words, rng.randint(1, most))
    while kept and not all(each.family.kept for each in offered):
        offered = offers(rng, words, rng.randint(1, most))
    return use(rng, words, rng.choice(offered), kept=kept), [dict(o.schema) for o in offered]


def call(words: Words, rng: random.Random, *, kept: bool, most: int = 3) -> Question:
    """Return a question that one of the tools answers."""
    made, tools = _asked(words, rng, kept=kept, most=most)
    chat = [said("user", made.question)]
    return Question(chat, tools=tools, calls=((made.name, made.arguments),))


def no_call(words: Words, rng: random.Random) -> Question:
    """Return a question that none of the tools answers."""
    offered = offers(rng, words, rng.randint(1, 3))
    asked = unfitting(rng, words, offered)
    tools = [dict(each.schema) for each in offered]
    return Question([said("user", asked)], frozenset({NO_TOOL}), tools=tools)


def first_answer(messages: list[Message]) -> Question:
    """Return a conversation up to its first answer."""
    first = next(at for at, each in enumerate(messages) if each.role == "assistant")
    chat = [said(each.role, each.content) for each in messages[:first]]
    return Question(chat, frozenset({messages[first].content}))


def result(words: Words, rng: random.Random) -> Question:
    """Return a result of a tool, to be told in a sentence."""
    made, tools = _asked(words, rng, kept=False, most=2)
    function = {"name": made.name, "arguments": dict(made.arguments)}
    calling = {"id": "call_1", "type": "function", "function": function}
    chat = [
        said("user", made.question),
        {"role": "assistant", "content": "", "tool_calls": [calling]},
        {"role": "tool", "content": made.result, "tool_call_id": "call_1", "name": made.name},
    ]
    return Question(chat, frozenset({made.answer}), tools=tools)


def extract(words: Words, rng: random.Random, *, kept: bool) -> Question:
    """Return a text to turn into JSON by a schema."""
    made = task(rng, words, kept=kept)
    schema = json.dumps(made.schema, ensure_ascii=False)
    system = choose(rng, rng.choice(WITH_SCHEMA)).replace("{s}", schema)
    if rng.random() < 0.5:
        chat = [said("system", system), said("user", made.text)]
    else:
        form = rng.choice(IN_ONE[:3]).replace("{system}", system).replace("{t}", made.text)
        chat = [said("user", form)]
    return Question(chat, schema=made.schema, found=made.found)


Maker = Callable[[World, random.Random], Question]
KINDS_OF_QUESTIONS: Mapping[str, Maker] = {
    "copying": lambda world, rng: from_book("copying", world, rng),
    "one tool": lambda world, rng: call(world.words, rng, kept=False, most=1),
    "right tool of up to three": lambda world, rng: call(world.words, rng, kept=False),
    "the same, new wording": lambda world, rng: call(world.words, rng, kept=True),
    "no tool fits": lambda world, rng: no_call(world.words, rng),
    "action of a ReAct agent": lambda world, rng: first_answer(reacting(rng, world.words, 2)),
    "name of the right tool": lambda world, rng: first_answer(choosing(rng, world.words, 4)),
    "result told": lambda world, rng: result(world.words, rng),
    "extraction": lambda world, rng: extract(world.words, rng, kept=False),
    "extraction, new wording": lambda world, rng: extract(world.words, rng, kept=True),
    "reading, 3 sentences": lambda world, rng: read(world.words, rng, 3),
    "reading, 10": lambda world, rng: read(world.words, rng, 10),
    "reading, 30": lambda world, rng: read(world.words, rng, 30),
    "reading, 3, new wording": lambda world, rng: read(world.words, rng, 3, kept=True),
    "reading, 3, new sorts of facts": lambda world, rng: read(
        world.words, rng, 3, kept=True, about="scenes"
    ),
    "not in the text": lambda world, rng: read(world.words, rng, 5, missing=1.0),
    "short reading of the books": lambda world, rng: from_book("reading", world, rng),
    "memory": memory,
    "sums": lambda world, rng: numbers(world, rng, KINDS[:-2]),
    "sorting": lambda world, rng: numbers(world, rng, KINDS[-2:]),
    "facts": lambda world, rng: from_book("facts", world, rng),
    "yes or no": lambda world, rng: from_book("yesno", world, rng),
    "translation": lambda world, rng: from_book("translation", world, rng),
    "unknown things": lambda world, rng: from_book("unknown", world, rng),
    "roles": lambda world, rng: from_book("roles", world, rng),
}


def questions(kind: str, count: int, seed: int) -> Iterator[Question]:
    """Yield held-out questions of one kind, the same ones for the same seed."""
    world, rng = World.load("heldout"), random.Random(f"{kind} {seed}")
    for _ in range(count):
        yield KINDS_OF_QUESTIONS[kind](world, rng)
