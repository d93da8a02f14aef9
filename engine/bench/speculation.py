"""What guessing ahead saves, and what it costs where there is nothing to guess.

Run: python engine/bench/speculation.py [--model 60M …] [--dtype bf16] [--tokens N] [--rounds N]
     [--streams N …] [--out FOLDER]
In: flags. Out: speculation.md, speculation.json and speculation.png in the folder.

Models have random weights and are steered to write known answers: every step is computed as ever,
then the logit of the answer's next token is raised. So an engine with drafts and one without write
the same text, as a trained model would, and what is drafted is right exactly as often as it is for
such a text. Both take turns; ratios are those of medians.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from libertai_engine import Engine, EngineConfig, Request, SamplingParams
from libertai_engine.config import MAX_DRAFT
from libertai_engine.lookup import PromptLookup
from libertai_engine.model.batch import Batch
from libertai_engine.model.loader import LoadedModel, load_model
from libertai_engine.model.runner import ModelRunner
from libertai_engine.text.tokenizer import Tokenizer
from machine import machine
from passages import PASSAGES
from speed.shapes import SHAPES, write_model

ROOT = Path(__file__).parents[2]
GREEDY = SamplingParams(temperature=0.0, repeat_penalty=1.0, ignore_eos=True)
CONTEXT_SIZE = 2048
PROMPT_TOKENS = 600
SURE = 1e4  # a logit that none of the model's comes near


@dataclass(frozen=True, slots=True)
class Writing:
    """A prompt and its answer, in tokens."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Milliseconds a token of each stream, without drafts and with them: medians, and drafts.

    `clock` says of what: processor time or wall time.
    """

    model: str
    dtype: str
    streams: int
    kind: str
    plain_ms: float
    drafting_ms: float
    steps_per_token: float
    drafted: float
    accepted: float
    clock: str

    @property
    def gain(self) -> float:
        """Times as fast."""
        return self.plain_ms / self.drafting_ms


class Steered:
    """A runner whose most likely token is always the next one of some writing.

    Invariant: `_lanes` holds the tokens that lie in the slots.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._lanes: dict[int, list[int]] = {}
        self.writings: list[list[int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def run(self, batch: Batch) -> torch.Tensor:
        """Logits `[wanted logits, vocab]` of the model, one of them raised in each row."""
        logits = self._runner.run(batch)
        index = 0
        for row in batch.rows:
            lane = self._lanes.setdefault(row.slot, [])
            lane[row.start :] = row.token_ids
            for end in range(row.end - row.num_logits + 1, row.end + 1):
                for writing in self.writings:
                    if len(writing) > end and writing[:end] == lane[:end]:
                        logits[index, writing[end]] = SURE
                index += 1
        return logits


def quote(tokenizer: Tokenizer, dice: random.Random, length: int) -> Writing:
    """The answer is a stretch of the prompt, word for word."""
    ids = prose_ids(tokenizer, dice, PROMPT_TOKENS)
    start = dice.randrange(0, max(1, PROMPT_TOKENS - length))
    return Writing((*ids, *tokenizer.encode_behind("\n\nQuote it:\n")), ids[start:][:length])


def findings(tokenizer: Tokenizer, dice: random.Random, length: int) -> Writing:
    """Sentences that name passages of the prompt, and quote them."""
    told = "".join(f"[{number}] {each.text}\n" for number, each in enumerate(PASSAGES[:24]))
    order = dice.sample(range(24), 24)
    said = [f" In passage {each} I found this: {PASSAGES[each].text}" for each in order]
    return written(tokenizer, f"{told}\nWhat is said?\n", "".join(said), length)


def edit(tokenizer: Tokenizer, dice: random.Random, length: int) -> Writing:
    """A file of code once more, with another name in it."""
    text = (ROOT / "engine/libertai_engine/text/stop.py").read_text()
    name = dice.choice(["needle", "phrase", "term"])
    text = text[text.index("class ") :]
    renamed = text.replace("word", name)
    return written(tokenizer, f"{text}\nRename `word`.\n", renamed, length)


def records(tokenizer: Tokenizer, dice: random.Random, length: int) -> Writing:
    """Lines of JSON with the same keys and other values."""
    words = [each.answer for each in PASSAGES if each.answer.isalpha()]
    lines = [
        json.dumps({"id": number, "name": dice.choice(words), "count": dice.randrange(1000)})
        for number in range(length)
    ]
    return written(tokenizer, "Some records:\n", "\n".join(lines), length)


def prose(tokenizer: Tokenizer, dice: random.Random, length: int) -> Writing:
    """Text that has hardly anything in common with its prompt."""
    ids = prose_ids(tokenizer, dice, PROMPT_TOKENS + length)
    return Writing(ids[:PROMPT_TOKENS], ids[PROMPT_TOKENS:])


def noise(tokenizer: Tokenizer, dice: random.Random, length: int) -> Writing:
    """Tokens at random, so that nothing is ever found."""
    ids = [dice.randrange(300, 20_000) for _ in range(PROMPT_TOKENS + length)]
    return Writing(tuple(ids[:PROMPT_TOKENS]), tuple(ids[PROMPT_TOKENS:]))


def deceit(tokenizer: Tokenizer, dice: random.Random, length: int) -> Writing:
    """Something is always found, and every guess is wrong."""
    lookup, ids = PromptLookup(), list[int]()
    while len(ids) < PROMPT_TOKENS + length:
        guess = lookup.draft(1).token_ids
        ids.append(dice.choice([each for each in range(500, 506) if each not in guess]))
        lookup.learn(ids[-1:])
    return Writing(tuple(ids[:PROMPT_TOKENS]), tuple(ids[PROMPT_TOKENS:]))


KINDS: dict[str, Callable[[Tokenizer, random.Random, int], Writing]] = {
    each.__name__: each for each in (quote, findings, edit, records, prose, noise, deceit)
}


def prose_ids(tokenizer: Tokenizer, dice: random.Random, count: int) -> tuple[int, ...]:
    """So many tokens of the project's own texts, paragraphs in any order, each once."""
    files = [ROOT / "README.md", ROOT / "engine/README.md", *sorted((ROOT / "docs").glob("*.md"))]
    paragraphs = [each for file in files for each in file.read_text().split("\n\n")]
    wanted = [each for each in paragraphs if len(each) > 200 and "|" not in each]
    return tuple(tokenizer.encode_behind("\n\n".join(dice.sample(wanted, len(wanted))))[:count])


def written(tokenizer: Tokenizer, prompt: str, answer: str, length: int) -> Writing:
    """Both texts in tokens."""
    ids = tokenizer.encode_behind(answer)[:length]
    return Writing(tuple(tokenizer.encode_behind(prompt)), tuple(ids))


class Contest:
    """Two engines on the same weights: without drafts and with them."""

    def __init__(
        self, model: LoadedModel, folder: Path, streams: int, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self.tokenizer = Tokenizer(model.tokenizer, eos_ids=model.eos_ids)
        self._ways: list[tuple[Engine, Steered]] = []
        for max_draft in (0, MAX_DRAFT):
            config = EngineConfig(model=str(folder), num_slots=streams, max_draft=max_draft)
            runner = ModelRunner(
                model.module,
                num_slots=streams,
                context_size=CONTEXT_SIZE,
                device=model.device,
                kernels=config.kernels,
            )
            steered = Steered(runner)
            self._ways.append((Engine(steered, self.tokenizer, config, None), steered))

    def measure(self, kind: str, streams: int, length: int, rounds: int) -> dict[str, float]:
        """Medians over rounds, both ways in turns; the first round warms up."""
        times: tuple[list[float], list[float]] = ([], [])
        drafted, accepted, steps = [], [], []
        for number in range(rounds + 1):
            dice = random.Random(f"{kind} {number}")
            writings = [KINDS[kind](self.tokenizer, dice, length) for _ in range(streams)]
            # The first token tells whose prompt it is: some kinds have one prompt for all answers.
            writings = [
                replace(each, prompt=(400 + index, *each.prompt))
                for index, each in enumerate(writings)
            ]
            for way in (0, 1) if number % 2 else (1, 0):
                engine = self._ways[way][0]
                before = engine.totals
                milliseconds = self._write(way, writings)
                if number:
                    times[way].append(milliseconds)
                if number and way:
                    after, total = engine.totals, sum(len(each.answer) for each in writings)
                    drafted.append((after.num_drafted - before.num_drafted) / total)
                    accepted.append((after.num_accepted - before.num_accepted) / total)
                    steps.append((after.num_steps - before.num_steps - streams) / length)
        return {
            "plain_ms": statistics.median(times[0]),
            "drafting_ms": statistics.median(times[1]),
            "steps_per_token": statistics.fmean(steps),
            "drafted": statistics.fmean(drafted),
            "accepted": statistics.fmean(accepted),
        }

    def _write(self, way: int, writings: list[Writing]) -> float:
        """Milliseconds a token, once all prompts are read. Raises if a text is another."""
        engine, steered = self._ways[way]
        steered.writings = [[*each.prompt, *each.answer] for each in writings]
        streams = [
            engine.submit(
                Request(
                    prompt_ids=each.prompt,
                    sampling=GREEDY,
                    max_tokens=len(each.answer),
                    cache_prompt=False,
                )
            )
            for each in writings
        ]
        firsts = [next(stream) for stream in streams]
        begun = self._clock()
        for first, stream, writing in zip(firsts, streams, writings, strict=True):
            told = [each.token_id for delta in (first, *stream) for each in delta.tokens]
            if told != list(writing.answer)[: len(told)]:
                raise RuntimeError("another text than it should be")
        return 1e3 * (self._clock() - begun) / len(writings[0].answer)

    def close(self) -> None:
        """Stop both."""
        for engine, _ in self._ways:
            engine.close()


def page(outcomes: list[Outcome]) -> str:
    """The table."""
    lines = [
        "# Guessing ahead",
        "",
        "Made by `python engine/bench/speculation.py`, which says what is measured. Tokens guessed",
        "and found right are given for each token of the answer.",
        "",
        "| model | weights | streams | answer | time | plain, ms/token | drafts, ms/token "
        "| times as fast | steps/token | guessed | right |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {each.model} | {each.dtype} | {each.streams} | {each.kind} | {each.clock} | "
        f"{each.plain_ms:.2f} | {each.drafting_ms:.2f} | **{each.gain:.2f}** | "
        f"{each.steps_per_token:.2f} | {each.drafted:.2f} | {each.accepted:.2f} |"
        for each in outcomes
    ]
    lines += [""]
    lines += [f"- {kind}: {_about(make)}" for kind, make in KINDS.items()]
    return "\n".join([*lines, "", "; ".join(machine().values()) + ".", ""])


def _about(make: Callable[..., Writing]) -> str:
    text = (make.__doc__ or "").strip()
    return text[0].lower() + text[1:]


def plot(outcomes: list[Outcome], path: Path) -> None:
    """Bars: times as fast as without drafts."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = sorted({(each.model, each.dtype, each.streams) for each in outcomes})
    figure, axis = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for index, group in enumerate(groups):
        gains = {
            each.kind: each.gain
            for each in outcomes
            if (each.model, each.dtype, each.streams) == group
        }
        places = [place + 0.8 * index / len(groups) for place in range(len(KINDS))]
        heights = [gains.get(kind, 0.0) for kind in KINDS]
        name, dtype, streams = group
        label = f"{name}, {dtype}, {streams} stream{'s' if streams > 1 else ''}"
        axis.bar(places, heights, 0.75 / len(groups), label=label)
    axis.axhline(1.0, color="black", linewidth=0.8)
    axis.set_xticks([place + 0.3 for place in range(len(KINDS))], list(KINDS))
    axis.set_ylabel("times as fast as without guesses")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="What guessing ahead saves.")
    parser.add_argument("--model", action="append", choices=SHAPES, help="default: 60M")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--kind", action="append", choices=KINDS, help="default: all")
    parser.add_argument("--streams", type=int, action="append", help="default: 1")
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="count that: where other programs run, with OMP_NUM_THREADS=1",
    )
    parser.add_argument("--folder", type=Path, help="where models are kept (default: nowhere)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.model or ["60M"]:
            folder = (args.folder or Path(temporary)) / name
            if not folder.exists():
                write_model(SHAPES[name], folder)
            outcomes += measure_model(name, folder, args)
    write(args.out, outcomes)
    print(page(outcomes))


def measure_model(name: str, folder: Path, args: argparse.Namespace) -> list[Outcome]:
    """All kinds, with each number of streams."""
    config = EngineConfig(model=str(folder), dtype=args.dtype, measures_quality=False)
    model = load_model(config, progress=False)
    clock = time.process_time if args.processor_time else time.perf_counter
    outcomes = []
    for streams in args.streams or [1]:
        contest = Contest(model, folder, streams, clock)
        for kind in args.kind or KINDS:
            found = contest.measure(kind, streams, args.tokens, args.rounds)
            outcome = Outcome(
                model=name,
                dtype=args.dtype,
                streams=streams,
                kind=kind,
                clock="processor" if args.processor_time else "wall",
                **found,
            )
            print(outcome, f"x {outcome.gain:.2f}", flush=True)
            outcomes.append(outcome)
        contest.close()
    return outcomes


def write(folder: Path, outcomes: list[Outcome]) -> None:
    """The three files."""
    folder.mkdir(exist_ok=True, parents=True)
    found = {"outcomes": [asdict(each) | {"gain": each.gain} for each in outcomes], **machine()}
    (folder / "speculation.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "speculation.md").write_text(page(outcomes))
    plot(outcomes, folder / "speculation.png")


if __name__ == "__main__":
    main()
