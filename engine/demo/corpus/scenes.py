"""Facts of all sorts, each in wordings of its own. In: scenes/*.txt. Out: sentences, questions.

Records tell a few things in many ways; a scene is one thing of a thousand. A file opens with
`# name`; its blocks are facts: `v` and `w` lists of values for the slots `{v}` and `{w}`, `s`
sentences that say the same, `q` questions with `=` their answer, a part of every sentence. One
block in ten, chosen by checksum, is never learned.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

from corpus.phrases import SLOT, Filler, capital
from corpus.words import Words

SCENES = Path(__file__).parent / "scenes"
OWN = ("v", "w")
AGAIN = 0.15  # how often a sentence is one that was there already, with other values


@dataclass(frozen=True, slots=True)
class Scene:
    """One fact with slots. Invariant: every answer is a part of every sentence."""

    sentences: tuple[str, ...]
    asked: tuple[tuple[tuple[str, ...], str], ...]  # wordings of a question, and the answer
    values: Mapping[str, tuple[str, ...]]

    @property
    def is_kept(self) -> bool:
        """Whether training never sees it."""
        return zlib.crc32(self.sentences[0].encode()) % 10 == 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its answer. Invariant: what has another `key` has another answer."""

    key: tuple[str, ...]  # the group of questions, and the values of the slots in this one
    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Told:
    """A scene with its slots filled."""

    scene: Scene
    sentence: str
    asked: tuple[Asked, ...]


def _scene(lines: Sequence[str]) -> Scene:
    """Return one block. Raises ValueError for a line with another mark, or no question."""
    values: dict[str, tuple[str, ...]] = {}
    sentences: list[str] = []
    asked: list[tuple[tuple[str, ...], str]] = []
    for mark, group in groupby(lines, key=lambda line: line[:2]):
        texts = [line[2:].strip() for line in group]
        if mark.strip() in OWN:
            values[mark.strip()] = tuple(part.strip() for part in texts[0].split("|"))
        elif mark == "s ":
            sentences += texts
        elif mark == "q ":
            asked.append((tuple(texts), ""))
        elif mark == "= " and asked and not asked[-1][1]:
            asked[-1] = (asked[-1][0], texts[0])
        else:
            raise ValueError(f"not a line of a scene: {mark}{texts[0]}")
    if not sentences or not asked or not asked[-1][1]:
        raise ValueError(f"no sentence, question or answer: {lines[0]}")
    return Scene(tuple(sentences), tuple(asked), values)


def read_scenes(path: Path) -> tuple[Scene, ...]:
    """Return the scenes of one file. Raises ValueError for one that is badly written."""
    _, *blocks = re.split(r"\n\n+", path.read_text(encoding="utf-8").strip())
    return tuple(_scene(block.splitlines()) for block in blocks)


@cache
def all_scenes(*, kept: bool) -> tuple[tuple[Scene, ...], ...]:
    """Return the scenes of every file: those to learn, or those that training never sees."""
    files = [read_scenes(path) for path in sorted(SCENES.glob("*.txt"))]
    return tuple(tuple(each for each in file if each.is_kept == kept) for file in files)


def play(rng: random.Random, words: Words, scene: Scene) -> Told:
    """Return a scene filled in, with one wording of each of its questions."""
    own = {name: {name: rng.choice(values)} for name, values in scene.values.items()}
    filler = Filler(rng, words, dict(own))
    sentence = capital(filler.fill(rng.choice(scene.sentences)))
    asked = []
    for wordings, answer in scene.asked:
        wording = rng.choice(wordings)
        slots = tuple(filler.fill(slot[0]) for slot in SLOT.finditer(wording))
        key = (wordings[0], *slots)
        asked.append(Asked(key, capital(filler.fill(wording)), filler.fill(answer)))
    return Told(scene, sentence, tuple(asked))


def scenes(
    rng: random.Random, words: Words, length: int, count: int, *, kept: bool, missing: float
) -> tuple[list[str], list[tuple[str, str]]]:
    """Return about `length` sentences, and at most `count` questions; an answer may be empty.

    `missing` is the share of questions that the sentences do not answer.
    """
    files = all_scenes(kept=kept)
    pool = rng.choice(files) if rng.random() < 0.4 else [each for file in files for each in file]
    told = _telling(rng, words, pool, length)
    keys = {asked.key for each in told for asked in each.asked}
    left = [asked for each in told for asked in each.asked]
    rng.shuffle(left)
    made: list[tuple[str, str]] = []
    for _ in range(4 * count):
        if len(made) == count or not left:
            break
        if rng.random() >= missing:
            chosen = left.pop()
            made.append((chosen.text, chosen.answer))
            continue
        other = rng.choice(play(rng, words, _another(rng, pool, told)).asked)
        if other.key not in keys:
            made.append((other.text, ""))
    return [each.sentence for each in told], made


def _telling(rng: random.Random, words: Words, pool: Sequence[Scene], length: int) -> list[Told]:
    """Return scenes no two of which answer the same question."""
    told: list[Told] = []
    keys: set[tuple[str, ...]] = set()
    for _ in range(3 * length):
        again = told and rng.random() < AGAIN
        new = play(rng, words, rng.choice(told).scene if again else rng.choice(pool))
        if len(told) < length and keys.isdisjoint(asked.key for asked in new.asked):
            told.append(new)
            keys |= {asked.key for asked in new.asked}
    return told


def _another(rng: random.Random, pool: Sequence[Scene], told: Sequence[Told]) -> Scene:
    """Return what to ask for in vain: the same with other values, or something else."""
    return rng.choice(told).scene if rng.random() < 0.5 else rng.choice(pool)
