"""The command line: `libertai-engine serve | chat | complete | info | bench | quantize`.

In: arguments. Out: an exit code: 0 done, 1 failed, 2 wrong arguments, 130 interrupted. Errors are
one line on stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from libertai_engine.cli import arguments, bench, chat, complete, info, quantize, serve
from libertai_engine.errors import EngineError

PROGRAM = "libertai-engine"
INTERRUPTED = 130

# Each is a module with `add_arguments(parser)` and `run(args) -> exit code`; the first line of
# its docstring is the help.
COMMANDS: tuple[ModuleType, ...] = (serve, chat, complete, info, bench, quantize)


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The whole command line, and the parser of each command. Nothing heavy is imported."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Run a language model: over HTTP as the llama-like API, or on the terminal.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    parsers = {}
    for command in COMMANDS:
        text = (command.__doc__ or "").partition(": ")[2].partition("\n")[0]
        name = command.__name__.rpartition(".")[2]
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_arguments(sub)
        sub.set_defaults(run=command.run, parser=sub)
        parsers[name] = sub
    return parser, parsers


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of one command, flags and the rest in any order."""
    parser, parsers = build_parser()
    if argv and argv[0] in parsers:
        # NOTE: a parser with commands cannot do this itself.
        return parsers[argv[0]].parse_intermixed_args(argv[1:])
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = parse(sys.argv[1:] if argv is None else argv)
    # NOTE: torch's threads wait for each other several times a layer. Spinning meanwhile makes them
    # 15 times slower as soon as other programs want the cores too, and gains nothing on idle ones.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code: int = args.run(args)
    except EngineError as error:
        arguments.blame_flag(args, error)
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:  # the plain package installs this command, too
        hint = "pip install 'libertai-llm[engine]'"
        print(f"{PROGRAM}: error: {error}; the engine needs: {hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
