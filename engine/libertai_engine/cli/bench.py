"""`libertai-engine bench`: how fast a model is on this machine.

In: a model. Out: a table on stdout, or JSON. Prompts are random tokens and answers greedy, so
nothing is guessed ahead unless `--draft-max` says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING

from libertai_engine.cli import arguments

if TYPE_CHECKING:
    from libertai_engine.cli.timing import Figure, Plan
    from libertai_engine.engine import Engine

MIN_PROMPT = 16  # tokens: fewer tell nothing
ROOM = 16  # tokens more than are asked for: an answer may end a character


def add_arguments(parser: ArgumentParser) -> None:
    """The flags of `bench`."""
    arguments.add_model(parser)
    group = parser.add_argument_group("work")
    group.add_argument(
        "--prompt", type=int, default=256, metavar="N", help="tokens of a prompt (default: 256)"
    )
    group.add_argument(
        "-n", "--new", type=int, default=32, metavar="N", help="tokens of an answer (default: 32)"
    )
    group.add_argument(
        "--streams",
        type=counts,
        default=(1, 4, 8),
        metavar="LIST",
        help="how many at once (default: 1,4,8)",
    )
    group.add_argument("--rounds", type=int, default=5, metavar="N", help="(default: 5)")
    group.add_argument("--json", action="store_true", help="all values, as JSON")
    arguments.add_engine(parser, drafts="0")


def counts(text: str) -> tuple[int, ...]:
    """Numbers with commas between."""
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers") from None
    if found[0] < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return found


def run(args: Namespace) -> int:
    """Measure and print; 0. Raises `EngineError`."""
    for name, least in (("prompt", MIN_PROMPT), ("new", 2), ("rounds", 1)):
        if getattr(args, name) < least:
            args.parser.error(f"argument --{name}: must be at least {least}")
    needed = args.prompt + args.new + ROOM
    if 0 < (args.ctx_size or 0) < needed:
        args.parser.error(f"argument -c/--ctx-size: --prompt and --new need at least {needed}")
    config = arguments.engine_config(
        args,
        arguments.model_of(args),
        num_slots=args.streams[-1],
        max_draft=args.draft_max or 0,
        context_size=args.ctx_size or needed,
    )

    from libertai_engine import load_engine  # NOTE: first, as it knows how to import what is large
    from libertai_engine.cli.timing import Plan

    plan = Plan(args.prompt, args.new, args.streams, args.rounds)
    with load_engine(config) as engine:
        figures = _measured(engine, plan)
        about = describe(engine)
    if args.json:
        print(json.dumps({"engine": about, "figures": [asdict(each) for each in figures]}))
        return 0
    lines = about | {figure.name: str(figure) for figure in figures}
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}")
    return 0


def _measured(engine: Engine, plan: Plan) -> list[Figure]:
    """All rounds, with a bar if somebody sees it."""
    from tqdm import tqdm

    from libertai_engine.cli.timing import measure

    figures: list[Figure] = []
    rounds = measure(engine, plan)
    total = plan.rounds + 1
    is_seen = sys.stderr.isatty()
    for latest in tqdm(rounds, total=total, unit="round", disable=not is_seen):
        figures = latest
    return figures


def describe(engine: Engine) -> dict[str, str]:
    """What is measured, and on what."""
    import torch

    model = engine.model
    assert model is not None
    return {
        "model": engine.name,
        "parameters": f"{model.num_parameters / 1e6:,.1f} M",
        "dtype": model.quantization.precision if model.quantization else model.dtype_name,
        "device": str(model.device),
        "threads": str(torch.get_num_threads()),
    }
