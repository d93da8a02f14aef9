"""What hostile grammars cost: time and memory to refuse, compile and follow each.

Run: python engine/bench/hostile_grammars.py [--write] [--size 32000] [--only TEXT]
In: the grammars of tests/engine/grammar/data/hostile.json. Out: a table, with --write also in
docs/bench/hostile_grammars.md. Every grammar gets a process of its own, so that its peak memory is
its own, and at most a minute. So that other work on the machine matters little, compiling is
measured in processor time, and a mask by the fastest of three rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import re
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "engine")]

import torch  # noqa: E402

from libertai_engine.errors import InvalidRequest  # noqa: E402
from libertai_engine.grammar.compiler import CompiledGrammar, GrammarCompiler  # noqa: E402
from libertai_engine.grammar.vocabulary import TokenFacts, TokenVocabulary  # noqa: E402
from tests.engine.grammar.cases import HostileCase, hostile_cases  # noqa: E402

PAGE = ROOT / "docs" / "bench" / "hostile_grammars.md"
TIMEOUT_S = 60  # of the processor
ANSWER_S = 20  # time to follow one answer, after which its rest is left out
ROUNDS = 3
MEMORY = 8 << 30
CONTROL = {f"<|{number}|>": number for number in range(8)}
HEADERS = ("grammar", "KB", "outcome", "compile, ms", "masks", "median, ms", "worst, ms", "MB")


@dataclass(frozen=True, slots=True)
class Figures:
    """What one grammar took. Times in ms; `peak_mb` is above what the vocabulary takes."""

    outcome: str
    compile_ms: float
    peak_mb: float = 0.0
    masks: int = 0
    median_ms: float = 0.0
    worst_ms: float = 0.0


def made_vocabulary(size: int) -> TokenVocabulary:
    """Byte fallback and `size` tokens: made-up words, numbers, signs and Chinese characters."""
    random = Random(size)
    pieces: dict[bytes, None] = {bytes([byte]): None for byte in range(255)}
    pieces |= {chr(0x4E00 + number).encode(): None for number in range(size // 10)}
    while len(pieces) < size - len(CONTROL):
        letters = "etaoinshrdlucmfwypvbgk"
        word = "".join(random.choices(letters, range(22, 0, -1), k=random.randrange(1, 9)))
        signs = "".join(random.choices('{}[]()",:.;=<>/\\\n -0123456789', k=random.randrange(1, 4)))
        pieces[random.choice([word, f" {word}", signs, word.title()]).encode()] = None
    facts = TokenFacts(
        pieces=[b""] * len(CONTROL) + list(pieces),
        control=CONTROL,
        end_ids=frozenset({0}),
        encode=lambda text: [],  # none of it, so the longest tokens are taken
        find=CONTROL.get,
    )
    return TokenVocabulary(facts, size)


def peak_mb() -> float:
    """The most memory this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(case: HostileCase, vocabulary: TokenVocabulary) -> Figures:
    """Refuses, or compiles and follows, one grammar in this process."""
    compiler = GrammarCompiler(lambda: vocabulary)
    compiler.gbnf('root ::= "a"').matcher()
    before, start = peak_mb(), time.process_time()
    try:
        compiled = compiler.gbnf(case.grammar)
    except InvalidRequest as error:
        took = 1e3 * (time.process_time() - start)
        return Figures(f"refused: {reason_of(error)}", took, peak_mb() - before)
    compile_ms = 1e3 * (time.process_time() - start)
    outcome, times = followed(compiled, vocabulary, case.answer)
    peak = peak_mb() - before
    return Figures(outcome, compile_ms, peak, len(times), statistics.median(times), max(times))


def followed(
    compiled: CompiledGrammar, vocabulary: TokenVocabulary, answer: str
) -> tuple[str, list[float]]:
    """How far the answer is followed, and the ms of each mask: the least of some rounds."""
    outcome, rounds = "followed", []
    until = time.perf_counter() + ANSWER_S
    token_ids = vocabulary.tokenize(answer)
    while len(rounds) < ROUNDS and (not rounds or time.perf_counter() < until):
        matcher, logits, times = compiled.matcher(), torch.zeros(vocabulary.size), []
        for token_id in token_ids:
            start = time.perf_counter()
            try:
                matcher.mask(logits.zero_())
                times.append(1e3 * (time.perf_counter() - start))
                assert logits[token_id] == 0, f"{token_id} is refused"
                matcher.accept(token_id)
            except InvalidRequest as error:
                outcome = f"ends: {reason_of(error)}"
                break
            if not rounds and time.perf_counter() > until:
                outcome = f"followed for {ANSWER_S} s"
                break
        rounds.append(times)
    return outcome, [min(times) for times in zip(*rounds, strict=False)] or [0.0]


def reason_of(error: InvalidRequest) -> str:
    """What a message says after what failed, and where."""
    return re.sub(r"^[^:]*: (line \d+, column \d+: )?|;.*", "", str(error))[:60]


def in_a_process(case: HostileCase, vocabulary: TokenVocabulary) -> Figures:
    """The same in a process of its own, which has the vocabulary from the start."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(there, case, vocabulary))
    process.start()
    there.close()
    try:
        return here.recv()  # type: ignore[no-any-return]
    except EOFError:
        process.join()
        return Figures(f"not done in {TIMEOUT_S} s, or too large", 1e3 * TIMEOUT_S)


def _child(there: Connection, case: HostileCase, vocabulary: TokenVocabulary) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    seconds = int(time.process_time()) + TIMEOUT_S
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    there.send(measured(case, vocabulary))


def table(rows: list[tuple[HostileCase, Figures]]) -> str:
    """Markdown."""
    lines = [HEADERS, tuple("-" * len(header) for header in HEADERS)]
    for case, found in rows:
        size = len(case.grammar.encode("utf-8", "surrogatepass")) / 1024
        cells = [case.name, f"{size:.1f}", found.outcome, f"{found.compile_ms:.0f}"]
        cells += [str(found.masks), f"{found.median_ms:.2f}", f"{found.worst_ms:.1f}"]
        cells[4:] = cells[4:] if found.masks else ["", "", ""]
        lines.append((*cells, f"{found.peak_mb:.0f}"))
    widths = [max(len(line[at]) for line in lines) for at in range(len(HEADERS))]
    padded = [
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def page(rows: list[tuple[HostileCase, Figures]], size: int) -> str:
    """The table with what has to be known to read it."""
    return f"""# What hostile grammars cost

Made by `python engine/bench/hostile_grammars.py --write`. Each grammar is compiled in a process of
its own and followed along an answer, token by token, over a vocabulary of {size} tokens. "compile"
is processor time and has parsing in it; a mask's time is the least of {ROUNDS} rounds; "MB" is the
peak of memory above that before the grammar. A refusal is an error 400 before the model is asked
for anything; where an answer ends, the request that asked for it fails, and no other.

{table(rows)}

{platform.machine()}, one thread; Python {platform.python_version()}, torch {torch.__version__}.
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    parser.add_argument("--size", type=int, default=32_000, help="tokens of the vocabulary")
    parser.add_argument("--only", default="", help="grammars whose name has this text")
    options = parser.parse_args()
    torch.set_num_threads(1)
    vocabulary = made_vocabulary(options.size)
    rows = []
    for case in hostile_cases():
        if options.only in case.name:
            rows.append((case, in_a_process(case, vocabulary)))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    if options.write:
        PAGE.write_text(page(rows, options.size))


if __name__ == "__main__":
    main()
