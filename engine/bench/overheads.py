"""What a token costs besides the model: choosing it, handing it on, HTTP, prompts that join, start.

Run: python engine/bench/overheads.py [--only PART …] [--out docs/bench/overheads.md]
In: flags. Out: a table for each part, as Markdown. A minute on two cores; models are the demo model
and one with random weights that is made in memory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the engine lies, if it is not installed
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import overhead_parts
from libertai_engine.processors import settle
from libertai_engine.sampling.sampler import Sampler, SamplerState
from libertai_engine.sampling_params import SamplingParams
from machine import machine
from overhead_parts import Table

VOCAB = 128_256
STEP_MS = 66.0  # of a model of 1.1 billion bf16 parameters on two cores
ROWS = (1, 4, 8, 16)
EVERYTHING: dict[str, object] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
SAMPLERS: dict[str, dict[str, object]] = {
    "greedy": {"temperature": 0.0, "repeat_penalty": 1.0},
    "the default chain": {},
    "temperature alone": {**EVERYTHING, "repeat_penalty": 1.0},
    "penalties over 1,500 tokens": {
        "temperature": 0.0,
        "penalty_window": -1,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.1,
    },
    "DRY over 1,500 tokens": {"dry_multiplier": 0.8, "dry_window": -1},
    "300 biases": {"logit_bias": tuple((each, 1.0) for each in range(300))},
    "top_k 1,000": {"top_k": 1000},
    "top_k 5,000": {"top_k": 5000},
    "top_p": {**EVERYTHING, "top_p": 0.95},
    "min_p": {**EVERYTHING, "min_p": 0.05},
    "top_n_sigma": {**EVERYTHING, "top_n_sigma": 1.0},
    "typical_p": {**EVERYTHING, "typical_p": 0.9},
    "tfs_z": {**EVERYTHING, "tfs_z": 0.9},
    "xtc": {**EVERYTHING, "xtc_probability": 0.5},
    "dynamic temperature": {**EVERYTHING, "dynatemp_range": 0.5},
    "mirostat 1": {"mirostat": 1},
    "mirostat 2": {"mirostat": 2},
    "10 n_probs, default chain": {"num_probs": 10},
    "10 n_probs, greedy": {"temperature": 0.0, "repeat_penalty": 1.0, "num_probs": 10},
    "10 log-probabilities": {"num_logprobs": 10},
}


def logits_of(rows: int) -> torch.Tensor:
    """Logits as models have them: a flat crowd, and some tokens that stand out of it."""
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, VOCAB, generator=generator) * 2
    logits[:, 1000:1200] += torch.linspace(18, 6, 200)
    return logits


def sampling_ms(changes: dict[str, object], rows: int, seconds: float = 0.12) -> float:
    """Milliseconds a row to choose the next tokens: the median of as many steps as fit.

    Of processor time, which other programs on the machine change least; one thread chooses.
    """
    params = SamplingParams(**changes)  # type: ignore[arg-type]
    prompt = torch.randint(0, VOCAB, (1500,), generator=torch.Generator().manual_seed(0)).tolist()
    states = [
        SamplerState(
            params, prompt_ids=prompt, seed=seed, context_size=2048, eos_ids=(2,), newline_id=13
        )
        for seed in range(rows)
    ]
    logits, sampler = logits_of(rows), Sampler()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 4 or time.perf_counter() < end:
        scratch = logits.clone()
        begun = time.thread_time()
        sampler.sample(scratch, states)
        times.append(time.thread_time() - begun)
    return 1e3 * statistics.median(times[1:]) / rows


def samplers() -> Table:
    """Every sampler at a vocabulary of 128,256."""
    lines = []
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, changes in SAMPLERS.items():
        found = [sampling_ms(changes, rows) for rows in ROWS]
        share = f"{100 * max(found) / STEP_MS:.1f} %"
        lines.append((name, *(f"{each:.2f}" for each in found), share))
    copies = [copy_ms(rows) for rows in ROWS]
    torch.set_num_threads(num_threads)
    share = f"{100 * max(copies) / STEP_MS:.2f} %"
    lines.append(("(bf16 logits to fp32)", *(f"{each:.3f}" for each in copies), share))
    return Table(
        f"Choosing a token among {VOCAB:,}",
        "Milliseconds a row of one thread's processor time. The share is the largest of a line's, "
        f"of {STEP_MS:.0f} ms, what one step of a model of 1.1 billion bf16 parameters takes here. "
        "The goal is 2 %.",
        ("sampler", *(f"{rows} row{'s' * (rows > 1)}" for rows in ROWS), "share"),
        lines,
    )


def copy_ms(rows: int) -> float:
    """Milliseconds a row that the float32 copy of a step's logits takes."""
    logits = logits_of(rows).bfloat16()
    times = []
    for _ in range(20):
        begun = time.thread_time()
        logits.to(torch.float32, copy=True)
        times.append(time.thread_time() - begun)
    return 1e3 * statistics.median(times) / rows


PARTS: dict[str, Callable[[], Table]] = {
    "samplers": samplers,
    "steps": overhead_parts.steps,
    "http": overhead_parts.http,
    "prefixes": overhead_parts.prefixes,
    "joining": overhead_parts.joining,
    "start": overhead_parts.start,
}


def markdown(tables: Sequence[Table]) -> str:
    """The whole document."""
    head = [
        "# What a token costs besides the model",
        "",
        "By `engine/bench/overheads.py`; medians of one run.",
        "",
        "Tail-free sampling that has no filter before it sorts the whole vocabulary, in some "
        "milliseconds, where the model prefers hardly any token to the others. Behind a filter "
        "that cuts, as in the default order of samplers, no sampler looks at all of it.",
        "",
        *(f"- {name}: {value}" for name, value in machine().items()),
    ]
    return "\n".join([*head, *(table.markdown() for table in tables), ""])


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="What a token costs besides the model.")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="these parts")
    parser.add_argument("--out", type=Path, help="a Markdown file to write")
    args = parser.parse_args(argv)
    settle(None, None)
    tables = []
    for name in args.only or PARTS:
        tables.append(PARTS[name]())
        print(tables[-1].markdown(), flush=True)
    if args.out:
        args.out.write_text(markdown(tables), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
