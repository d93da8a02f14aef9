"""Flags that several commands share, spelled as llama.cpp's programs spell them.

In: an argparse parser to add them to, or parsed arguments. Out: checked configurations.
"""

from __future__ import annotations

import argparse
import json
from argparse import ArgumentParser, Namespace, _ActionsContainer, _ArgumentGroup
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from libertai_engine.config import DTYPES, KERNELS, MAX_DRAFT, EngineConfig
from libertai_engine.errors import EngineError, InvalidRequest
from libertai_engine.processors import read_processors
from libertai_engine.sampling_params import SamplingParams

if TYPE_CHECKING:
    from libertai_engine.grammar.compiler import CompiledGrammar, GrammarCompiler

T = TypeVar("T")
MODEL_HELP = "a folder, a hub id, a GGUF file, or `demo`, the model that comes with this program"
NO_LIMIT_BYTES = 1 << 62

# Field of `SamplingParams`, its flags, its type, what it does.
_SAMPLING: list[tuple[str, tuple[str, ...], type, str]] = [
    ("temperature", ("--temp",), float, "randomness; 0 always takes the most likely token"),
    ("top_k", ("--top-k",), int, "keep the K most likely tokens; 0 keeps all"),
    ("top_p", ("--top-p",), float, "keep the most likely tokens of this total probability"),
    ("min_p", ("--min-p",), float, "drop tokens this much less likely than the best one"),
    ("tfs_z", ("--tfs",), float, "tail-free sampling; 1 is off"),
    ("typical_p", ("--typical",), float, "locally typical sampling; 1 is off"),
    ("repeat_penalty", ("--repeat-penalty",), float, "weaken tokens that were used; 1 is off"),
    ("penalty_window", ("--repeat-last-n",), int, "latest tokens to penalise; -1: all"),
    ("presence_penalty", ("--presence-penalty",), float, "weaken tokens that appeared"),
    ("frequency_penalty", ("--frequency-penalty",), float, "weaken tokens by how often"),
    ("mirostat", ("--mirostat",), int, "0 off, 1 or 2: the version of Mirostat"),
    ("mirostat_tau", ("--mirostat-ent",), float, "Mirostat's target entropy"),
    ("mirostat_eta", ("--mirostat-lr",), float, "Mirostat's learning rate"),
]


# Fields of configurations whose flags have other names, as arguments.
_FLAG_OF = {
    "context_size": "ctx_size",
    "batch_tokens": "batch_size",
    "max_draft": "draft_max",
    "num_slots": "parallel",
    "request_timeout": "timeout",
}


def checked(args: Namespace, kind: Callable[..., T], **values: Any) -> T:
    """`kind(**values)`; values that it refuses end the program like any other wrong flag."""
    try:
        return kind(**values)
    except InvalidRequest as error:
        blame_flag(args, error)
        args.parser.error(str(error))
        raise AssertionError("argparse exits on errors") from error


def blame_flag(args: Namespace, error: EngineError) -> None:
    """End the program as for any other wrong flag, if it is a flag that the error is about."""
    field = getattr(error, "field", None)
    names = {_FLAG_OF.get(field or "", field), f"{field}_file"}
    for each in args.parser._actions:
        is_given = getattr(args, each.dest, each.default) != each.default
        if each.dest in names and each.option_strings and is_given:
            args.parser.error(f"argument {'/'.join(each.option_strings)}: {error}")


def add_model(parser: ArgumentParser) -> None:
    """The model, by position or by `-m`; without it the demo model."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help=f"{MODEL_HELP} (the default)")
    parser.add_argument("-m", "--model", dest="model_flag", metavar="MODEL", help="the same")


def model_of(args: Namespace) -> str:
    """The model that was asked for, once."""
    if args.model and args.model_flag:
        args.parser.error("the model is given twice, by position and by -m")
    return args.model or args.model_flag or "demo"


def add_engine(parser: ArgumentParser, *, drafts: str = f"{MAX_DRAFT} where that is exact") -> None:
    """How a model is loaded and run; `drafts` is what is guessed ahead by default."""
    group = add_loading(parser)
    group.add_argument(
        "-c",
        "--ctx-size",
        type=int,
        metavar="N",
        help="tokens of context in each slot (default: what the model was trained for)",
    )
    group.add_argument(
        "-b",
        "--batch-size",
        type=int,
        metavar="N",
        help=f"tokens a step, at most (default: {EngineConfig().batch_size})",
    )
    group.add_argument(
        "--prefill-ms",
        type=int,
        metavar="N",
        help="milliseconds that prompts add to a step of answers, at most; 0: no limit "
        f"(default: {EngineConfig().prefill_ms})",
    )
    group.add_argument(
        "--draft-max",
        type=int,
        metavar="N",
        help=f"tokens guessed ahead in a step, at most; 0: none (default: {drafts})",
    )


def add_loading(parser: ArgumentParser) -> _ArgumentGroup:
    """How a model is loaded, and on which processors it runs."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "-t", "--threads", type=int, metavar="N", help="CPU threads (default: one a core)"
    )
    group.add_argument(
        "--cpus", type=processors, metavar="LIST", help="run on these processors only, as in 0-3,6"
    )
    group.add_argument("--dtype", choices=DTYPES, help="type of the weights (default: auto)")
    group.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: auto)")
    group.add_argument(
        "--kernels",
        choices=KERNELS,
        help="who multiplies on CPUs (default: auto)",
    )
    group.add_argument("--offline", action="store_true", help="never look for models on the net")
    add_quality(group)
    return group


def add_quality(group: _ActionsContainer) -> None:
    """Whether to find out what quantizing costs."""
    group.add_argument(
        "--no-quality",
        action="store_false",
        dest="measures_quality",
        help="do not read a text before and after quantizing",
    )


def engine_config(args: Namespace, model: str, **more: Any) -> EngineConfig:
    """The engine's configuration; what was not given keeps its default."""
    given = {
        "context_size": args.ctx_size,
        "batch_size": args.batch_size,
        "prefill_ms": args.prefill_ms,
        "max_draft": args.draft_max,
        **more,
    }
    return loading_config(args, model, **given)


def loading_config(args: Namespace, model: str, **more: Any) -> EngineConfig:
    """The configuration for who has the flags of `add_loading` alone."""
    given = {
        "threads": args.threads,
        "cpus": args.cpus,
        "dtype": args.dtype,
        "device": args.device,
        "kernels": args.kernels,
        "measures_quality": args.measures_quality,
        **more,
    }
    values = {name: value for name, value in given.items() if value is not None}
    return checked(args, EngineConfig, model=model, local_files_only=args.offline, **values)


def add_sampling(parser: ArgumentParser, *, otherwise: str = "") -> None:
    """How the next token is chosen and when an answer ends; `otherwise` goes before defaults."""
    group = parser.add_argument_group("sampling")
    for field, flags, kind, text in _SAMPLING:
        default = getattr(SamplingParams(), field)
        described = f"{text} (default: {otherwise}{default:g})"
        group.add_argument(*flags, dest=field, type=kind, metavar="N", help=described)
    group.add_argument(
        "-s", "--seed", type=int, default=-1, metavar="N", help="-1 draws one (the default)"
    )
    group.add_argument("--ignore-eos", action="store_true", help="go on after the end of text")
    group.add_argument(
        "-n", "--n-predict", type=int, default=-1, metavar="N", help="tokens at most; -1: no limit"
    )
    group.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before it; may be repeated"
    )


def sampling_params(
    args: Namespace, suggested: Mapping[str, float] | None = None
) -> SamplingParams:
    """The sampler settings; what was not given is as `suggested`, or keeps its default."""
    given = {field: getattr(args, field) for field, *_ in _SAMPLING}
    flags = {name: value for name, value in given.items() if value is not None}
    values = {**(suggested or {}), **flags}
    seed = None if args.seed == -1 else args.seed
    return checked(args, SamplingParams, seed=seed, ignore_eos=args.ignore_eos, **values)


def add_grammar(parser: ArgumentParser) -> None:
    """What the answer is held to."""
    group = parser.add_argument_group("grammar").add_mutually_exclusive_group()
    group.add_argument("--grammar", metavar="GBNF", help="the answer is a text of this grammar")
    group.add_argument("--grammar-file", type=text_of, metavar="FILE", help="the same, in a file")
    group.add_argument("-j", "--json-schema", type=json_of, metavar="JSON", help="it is such JSON")


def compiled_grammar(args: Namespace, grammars: GrammarCompiler) -> CompiledGrammar | None:
    """The grammar that was given, if one was. Raises `InvalidRequest`."""
    if args.json_schema is not None:
        return grammars.json_schema(args.json_schema)
    text = args.grammar or args.grammar_file
    return grammars.gbnf(text) if text else None


def text_of(path: str) -> str:
    """What a file says."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise argparse.ArgumentTypeError(f"cannot read {path!r}") from None


def json_of(text: str) -> Any:
    """What JSON text stands for."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise argparse.ArgumentTypeError("is no JSON") from None


def max_tokens(args: Namespace) -> int | None:
    """How long an answer may be."""
    if args.n_predict < -1:
        args.parser.error("argument -n/--n-predict: must be at least -1")
    return None if args.n_predict == -1 else int(args.n_predict)


def megabytes(text: str) -> int:
    """MiB to bytes; -1 is no limit."""
    value = int(text)
    if value < -1:
        raise argparse.ArgumentTypeError("must be -1 or more")
    return NO_LIMIT_BYTES if value == -1 else value << 20


def folder(path: str) -> Path:
    """A folder that exists."""
    if not Path(path).is_dir():
        raise argparse.ArgumentTypeError(f"no folder at {path!r}")
    return Path(path)


def processors(text: str) -> tuple[int, ...]:
    """Numbers of processors, as Linux writes them."""
    try:
        return read_processors(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of processors") from None


def keys_of(text: str) -> list[str]:
    """One or more API keys, separated by commas."""
    keys = [key.strip() for key in text.split(",") if key.strip()]
    if not keys:  # what an unset variable of a shell gives must not open the server to all
        raise argparse.ArgumentTypeError("no key in it")
    return keys


def keys_in(path: str) -> list[str]:
    """The API keys of a file, one a line."""
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise argparse.ArgumentTypeError(f"cannot read {path!r}") from None
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise argparse.ArgumentTypeError(f"no key in {path!r}")
    return keys
