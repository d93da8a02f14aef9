"""How often the model is right on held-out questions. In: a model folder. Out: a Markdown table.

    python engine/demo/score.py engine/libertai_engine/demo_model

A question counts as right when the greedy answer is one of those that the corpus allows for it.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from corpus.arithmetic import KINDS
from corpus.books import GAP, Block
from corpus.mixture import World
from corpus.phrases import Filler, choose

BOOKS = ("facts", "yesno", "translation", "reading", "copying", "memory", "roles")
BATCH = 25
Chat = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation that waits for an answer. Invariant: at least one answer is right."""

    chat: Chat
    right: frozenset[str]


def variants(template: str) -> list[str]:
    """Return every text that `choose` can make of a template."""
    innermost = re.search(r"\[([^\[\]]*)\]", template)
    if innermost is None:
        return [template]
    made = (template[: innermost.start()] + part + template[innermost.end() :]
            for part in innermost[1].split("|"))  # fmt: skip
    return [text for each in made for text in variants(each)]


def book_question(block: Block, filler: Filler, world: World) -> Question:
    """Return a block played up to its last answer, with one sum in each gap."""
    steps = list(block)
    while steps[-1].mark != "=":
        steps.pop()
    chat: Chat = []
    for step in steps[:-1]:
        if step.mark == GAP:
            asked, answer = (choose(filler.rng, each) for each in KINDS[0](filler.rng, world.words))
            chat += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        else:
            role = {"!": "system", "?": "user", "=": "assistant"}[step.mark]
            chat.append({"role": role, "content": filler.fill(filler.rng.choice(step.templates))})
    right = {filler.fill(text).strip() for each in steps[-1].templates for text in variants(each)}
    return Question(chat, frozenset(right))


def book_questions(name: str, world: World, rng: random.Random) -> Iterator[Question]:
    """Yield questions from random blocks of one book, for ever."""
    blocks = world.books[name].blocks
    while True:
        yield book_question(rng.choice(blocks), Filler(rng, world.words), world)


def sums(world: World, rng: random.Random) -> Iterator[Question]:
    """Yield questions about numbers, for ever."""
    while True:
        asked, answer = rng.choice(KINDS)(rng, world.words)
        chat = [{"role": "user", "content": choose(rng, asked).strip().capitalize()}]
        yield Question(chat, frozenset(variants(answer)))


@torch.inference_mode()
def greedy(model: Any, tokenizer: Any, chats: list[Chat]) -> list[str]:
    """Return the greedy answer to each conversation."""
    texts = [
        tokenizer.bos_token
        + tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        for chat in chats
    ]
    ids = tokenizer(
        texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
    )
    out = model.generate(**ids, do_sample=False, max_new_tokens=80)
    new = out[:, ids["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


def score_table(folder: Path, count: int = 100, seed: int = 7) -> str:
    """Return the share of right answers, by kind of question, as Markdown."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    world = World.load("heldout")
    rng = random.Random(seed)
    kinds: dict[str, Iterator[Question]] = {"sums": sums(world, rng)}
    kinds |= {name: book_questions(name, world, rng) for name in BOOKS}
    rows = ["| held-out questions | right |", "|---|---|"]
    for name, stream in kinds.items():
        questions = [next(stream) for _ in range(count)]
        groups = [questions[at : at + BATCH] for at in range(0, count, BATCH)]
        given = [text for group in groups
                 for text in greedy(model, tokenizer, [each.chat for each in group])]  # fmt: skip
        right = sum(text in question.right for text, question in zip(given, questions, strict=True))
        rows.append(f"| {name} | {right / count:.0%} |")
    return "\n".join(rows)


def main() -> None:
    """Print the table for one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100, help="questions of each kind")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    print(score_table(args.folder, args.count, args.seed))


if __name__ == "__main__":
    main()
