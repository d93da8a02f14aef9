"""What a grammar costs for each token, and what forced text saves.

Run: python engine/bench/grammar.py [--size 2048 --size 32000 …] [--rounds N] [--out FOLDER]
In: flags. Out: grammar.md, grammar.json and grammar.png in the folder.

The tokenizers are byte-level BPE, trained on the spot on the Python files around. Overheads are
measured along the tokens of one JSON document, for which the mask is made at every token ("mask"),
or the token that came is only looked at ("verdict", what a greedy or unfiltered request does while
the model keeps to the grammar by itself). Wall times are those of an engine with a model of random
weights, steered to write that document: every step is computed as ever, then the logit of the next
token of the document is raised. So both engines write the same text, as a trained model would.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from form import DOCUMENT, SCHEMA
from libertai_engine import Engine, EngineConfig, Request, SamplingParams
from libertai_engine.engine import token_vocabulary
from libertai_engine.grammar.compiler import CompiledGrammar, GrammarCompiler
from libertai_engine.model.loader import load_model
from libertai_engine.model.runner import ModelRunner
from libertai_engine.text.tokenizer import Tokenizer
from machine import machine
from steering import SteeredRunner
from trained_tokenizer import train_tokenizer

SIZES = (2048, 32_000, 128_256)
GREEDY = SamplingParams(temperature=0.0, repeat_penalty=1.0)
PROMPT = "Fill in the form:\n"
JSON_GBNF = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
array  ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """Microseconds a token, along the document: median and 99th percentile of each way."""

    vocabulary: int
    grammar: str
    compile_ms: float
    mask_us: float
    mask_p99_us: float
    verdict_us: float
    verdict_p99_us: float
    step_ms: float

    @property
    def share(self) -> float:
        """Of a step of a model with 1.1 billion parameters, if every mask is made."""
        return self.mask_us / (1e3 * self.step_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """Seconds to write the document, best of the rounds, and the steps it took."""

    vocabulary: int
    white_space: str
    tokens: int
    steps_sampled: int
    steps_forced: int
    seconds_free: float
    seconds_sampled: float
    seconds_forced: float

    @property
    def gain(self) -> float:
        """How many times faster it is with forced text."""
        return self.seconds_sampled / self.seconds_forced


def save_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A Llama of 4 million random weights and the embeddings of the vocabulary."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measure_step(vocabulary: int, rounds: int) -> float:
    """Milliseconds of one decoding step of a bf16 Llama of 1.1 billion weights, the best round."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=4,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device="cpu").eval()
    for weight in model.parameters():
        weight.data.fill_(0.01)  # what it says does not matter, but uninitialised memory is slow
    token = torch.ones(1, 1, dtype=torch.long)
    with torch.inference_mode():
        seconds = [timed(lambda: model(token, use_cache=False)) for _ in range(rounds + 1)]
    return 1e3 * min(seconds[1:])


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure_overhead(tokenizer: Tokenizer, name: str, step_ms: float, rounds: int) -> Overhead:
    """Follow the document token by token, in both ways."""
    size = tokenizer.vocab_size
    vocabulary = token_vocabulary(tokenizer, size)
    began = time.perf_counter()
    compiled = compile_named(GrammarCompiler(lambda: vocabulary), name)
    compile_ms = 1e3 * (time.perf_counter() - began)
    token_ids = tokenizer.encode_behind(json.dumps(DOCUMENT))
    masks, verdicts = [], []
    for _ in range(rounds):
        masks.append(follow(compiled, token_ids, size, is_masked=True))
        verdicts.append(follow(compiled, token_ids, size, is_masked=False))
    # Of each token the fastest round, which other programs disturbed the least.
    mask_us = sorted(1e6 * min(each) for each in zip(*masks, strict=True))
    verdict_us = sorted(1e6 * min(each) for each in zip(*verdicts, strict=True))
    return Overhead(
        vocabulary=size,
        grammar=name,
        compile_ms=compile_ms,
        mask_us=statistics.median(mask_us),
        mask_p99_us=mask_us[int(0.99 * len(mask_us))],
        verdict_us=statistics.median(verdict_us),
        verdict_p99_us=verdict_us[int(0.99 * len(verdict_us))],
        step_ms=step_ms,
    )


def compile_named(compiler: GrammarCompiler, name: str) -> CompiledGrammar:
    """The grammar of this name."""
    return compiler.gbnf(JSON_GBNF) if name == "json.gbnf" else compiler.json_schema(SCHEMA)


def follow(
    compiled: CompiledGrammar, token_ids: list[int], size: int, *, is_masked: bool
) -> list[float]:
    """Seconds for each token, taking it included."""
    matcher, seconds = compiled.matcher(), []
    for token_id in token_ids:
        logits = torch.zeros(size)

        def one(token_id: int = token_id, logits: torch.Tensor = logits) -> None:
            if is_masked:
                matcher.mask(logits)
            else:
                matcher.allows(token_id)
            matcher.accept(token_id)
            assert not matcher.is_finished or token_id == token_ids[-1]

        seconds.append(timed(one))
    return seconds


def measure_filling(folder: Path, rounds: int, *, is_compact: bool) -> Filling:
    """The form, filled in freely, held to its schema, and with forced text."""
    separators = (",", ":") if is_compact else (", ", ": ")
    text = json.dumps(DOCUMENT, separators=separators)
    model = load_model(EngineConfig(model=str(folder), dtype="fp32"), progress=False)
    tokenizer = Tokenizer(model.tokenizer, eos_ids=model.eos_ids)
    ways: dict[str, tuple[Engine, SteeredRunner]] = {}
    for name, forces in (("free", False), ("sampled", False), ("forced", True)):
        runner = ModelRunner(model.module, num_slots=1, context_size=2048, device=model.device)
        steered = SteeredRunner(runner, tokenizer, PROMPT + text)
        # Forced text is measured as users get it, with drafts of what a grammar lets foresee.
        drafts = None if forces else 0
        config = EngineConfig(
            model=str(folder), num_slots=1, forces_tokens=forces, max_draft=drafts
        )
        ways[name] = (Engine(steered, tokenizer, config, None), steered)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    tokens = 0
    for _ in range(rounds + 1):  # in turns; the first round warms up
        for name, (engine, steered) in ways.items():
            steered.num_steps = 0
            grammar = engine.grammars.json_schema(SCHEMA, is_compact=is_compact)
            request = Request(
                prompt_ids=tuple(tokenizer.encode_behind(PROMPT)),
                sampling=GREEDY,
                grammar=None if name == "free" else grammar,
                cache_prompt=False,
            )
            began = time.perf_counter()
            deltas = list(engine.submit(request))
            seconds[name].append(time.perf_counter() - began)
            assert "".join(delta.text for delta in deltas) == text, name
            tokens = sum(len(delta.tokens) for delta in deltas)
    for engine, _ in ways.values():
        engine.close()
    best = {name: min(each[1:]) for name, each in seconds.items()}
    return Filling(
        vocabulary=tokenizer.vocab_size,
        white_space="none" if is_compact else "as written by json.dumps",
        tokens=tokens,
        steps_sampled=ways["sampled"][1].num_steps,
        steps_forced=ways["forced"][1].num_steps,
        seconds_free=best["free"],
        seconds_sampled=best["sampled"],
        seconds_forced=best["forced"],
    )


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def page(overheads: list[Overhead], fillings: list[Filling]) -> str:
    """The document."""
    first = table(
        (
            *("vocabulary", "grammar", "compile, ms", "mask, us (p99)", "verdict, us (p99)"),
            *("1.1B step, ms", "mask / step"),
        ),
        [
            (
                *(str(each.vocabulary), each.grammar, f"{each.compile_ms:.1f}"),
                f"{each.mask_us:.0f} ({each.mask_p99_us:.0f})",
                f"{each.verdict_us:.0f} ({each.verdict_p99_us:.0f})",
                *(f"{each.step_ms:.0f}", f"{100 * each.share:.2f} %"),
            )
            for each in overheads
        ],
    )
    second = table(
        (
            *("vocabulary", "white space", "tokens", "steps, all sampled", "steps, forced"),
            *("no grammar, s", "all sampled, s", "forced, s", "gain"),
        ),
        [
            (
                *(str(each.vocabulary), each.white_space, str(each.tokens)),
                *(str(each.steps_sampled), str(each.steps_forced), f"{each.seconds_free:.2f}"),
                *(f"{each.seconds_sampled:.2f}", f"{each.seconds_forced:.2f}"),
                f"{each.gain:.2f}",
            )
            for each in fillings
        ],
    )
    facts = machine()
    peer = "installed, but not measured here" if find_spec("llama_cpp") else "not installed"
    return (
        "# Grammars\n\nMade by `python engine/bench/grammar.py`, which says what is measured.\n\n"
        f"## Overhead of one token\n\n{first}\n## Filling in a form of 20 fields\n\n{second}\n"
        "Other programs ran on the machine meanwhile: steps are exact, seconds are not.\n\n"
        f"{facts['machine']}; {facts['versions']}. llama-cpp-python as a peer: {peer}.\n"
    )


def plot(fillings: list[Filling], path: Path) -> None:
    """Bars: seconds for the form, by vocabulary."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4))
    labels = [f"{each.vocabulary}\n{each.white_space}" for each in fillings]
    for index, (name, color) in enumerate(
        (("seconds_free", "#c9c9c9"), ("seconds_sampled", "#8fb3d9"), ("seconds_forced", "#2563a8"))
    ):
        heights = [getattr(each, name) for each in fillings]
        places = [place + 0.27 * (index - 1) for place in range(len(fillings))]
        legend = ("no grammar", "grammar, every token sampled", "grammar, forced text")[index]
        axes.bar(places, heights, 0.25, label=legend, color=color)
    axes.set_xticks(range(len(fillings)), labels, fontsize=7)
    axes.set_ylabel("seconds for a form of 20 fields")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="What grammars cost and save.")
    parser.add_argument("--size", type=int, action="append", help="a vocabulary (default: three)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    disable_progress_bar()
    overheads: list[Overhead] = []
    fillings: list[Filling] = []
    for size in args.size or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            hf = train_tokenizer(size)
            save_model(Path(folder), hf)
            step_ms = measure_step(len(hf), args.rounds)
            for name in ("json.gbnf", "schema of 20 fields"):
                overheads.append(measure_overhead(Tokenizer(hf), name, step_ms, args.rounds))
                print(overheads[-1], flush=True)
            for is_compact in (False, True):
                fillings.append(measure_filling(Path(folder), args.rounds, is_compact=is_compact))
                print(fillings[-1], flush=True)
        write(args.out, overheads, fillings)  # after each size: a long run may be stopped
    print(page(overheads, fillings))


def write(folder: Path, overheads: list[Overhead], fillings: list[Filling]) -> None:
    """The three files."""
    folder.mkdir(exist_ok=True, parents=True)
    found = {"overhead": [*map(asdict, overheads)], "filling": [*map(asdict, fillings)]}
    (folder / "grammar.json").write_text(json.dumps({**found, **machine()}, indent=1) + "\n")
    (folder / "grammar.md").write_text(page(overheads, fillings))
    plot(fillings, folder / "grammar.png")


if __name__ == "__main__":
    main()
