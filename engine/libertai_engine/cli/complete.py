"""`libertai-engine complete`: continue a text.

In: a prompt, as an argument or on stdin. Out: its continuation on stdout, as it is made.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from libertai_engine.cli import arguments
from libertai_engine.errors import InvalidRequest

INTERRUPTED = 130  # as a program that Ctrl-C ended


def add_arguments(parser: ArgumentParser) -> None:
    """The flags of `complete`."""
    parser.add_argument("model", metavar="MODEL", help=arguments.MODEL_HELP)
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="(default: read from stdin)")
    arguments.add_engine(parser)
    arguments.add_sampling(parser)
    arguments.add_grammar(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="speed and cache, on stderr")


def run(args: Namespace) -> int:
    """Complete the prompt; 0, or 130 after Ctrl-C. Raises `EngineError`."""
    config = arguments.engine_config(args, args.model, num_slots=1)
    sampling, max_tokens = arguments.sampling_params(args), arguments.max_tokens(args)
    prompt = sys.stdin.read().removesuffix("\n") if args.prompt is None else args.prompt
    if not prompt:
        raise InvalidRequest("the prompt is empty")

    from libertai_engine import load_engine  # NOTE: first, as it knows how to import what is large
    from libertai_engine.cli import terminal
    from libertai_engine.sequence import Request

    with load_engine(config) as engine:
        prompt_ids = tuple(engine.tokenizer.encode(prompt, add_special=True))
        request = Request(
            prompt_ids=prompt_ids,
            sampling=sampling,
            max_tokens=max_tokens,
            stop=tuple(args.stop),
            grammar=arguments.compiled_grammar(args, engine.grammars),
        )
        answer = terminal.speak(engine, request)
        print(flush=True)
        if answer.finish is None:
            return INTERRUPTED
        if args.verbose:
            terminal.tell(terminal.figures(answer.finish))
    return 0
