"""`libertai-engine chat`: a conversation on the terminal.

In: what the person types. Out: answers as they are made; the conversation stays in one slot, so
that each turn evaluates only what is new.
"""

from __future__ import annotations

import contextlib
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

from libertai_engine.cli import arguments
from libertai_engine.errors import EngineError

if TYPE_CHECKING:
    from libertai_engine.cli.terminal import Spoken
    from libertai_engine.engine import Engine
    from libertai_engine.sequence import Request

HELP = """\
Type a message and Enter. Ctrl-C stops an answer, Ctrl-D leaves.
  /reset   forget the conversation (the system prompt stays)
  /help    show this
  /exit    leave"""


def add_arguments(parser: ArgumentParser) -> None:
    """The flags of `chat`."""
    arguments.add_model(parser)
    parser.add_argument("--system", metavar="TEXT", help="what the model is told to be")
    arguments.add_engine(parser)
    arguments.add_sampling(parser, otherwise="the model's own, or ")
    parser.add_argument("-v", "--verbose", action="store_true", help="speed and cache, on stderr")


def run(args: Namespace) -> int:
    """Chat until the person leaves; 0 then. Raises `EngineError`."""
    config = arguments.engine_config(args, arguments.model_of(args), num_slots=1)
    arguments.sampling_params(args)  # wrong flags end the program before a model is loaded
    max_tokens = arguments.max_tokens(args)

    from libertai_engine import load_engine
    from libertai_engine.sequence import Request

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives `input` line editing and history)
    with load_engine(config) as engine:
        suggested = engine.model.sampling if engine.model else {}
        # A template, as its prompt is filled in turn by turn.
        request = Request(
            prompt_ids=(),
            sampling=arguments.sampling_params(args, suggested),
            max_tokens=max_tokens,
            stop=tuple(args.stop),
        )
        Chat(engine, request, system=args.system, is_verbose=args.verbose).run()
    return 0


class Chat:
    """One conversation. `messages` is what has been said by both; a failed turn leaves no trace."""

    def __init__(
        self, engine: Engine, request: Request, *, system: str | None, is_verbose: bool
    ) -> None:
        self._engine = engine
        self._is_verbose = is_verbose
        self._beginning = [{"role": "system", "content": system}] if system else []
        self.messages = list(self._beginning)
        template = engine.tokenizer.chat_template
        self._template, stop = (template, ()) if template else _chatml()
        self._request = replace(request, stop=(*request.stop, *stop))

    def run(self) -> None:
        """Talk until /exit or Ctrl-D."""
        _tell(f"{self._engine.name}: type a message. /help for help, Ctrl-D to leave.")
        while (line := _read_line()) is not None:
            command = line.strip()
            if command in {"/exit", "/quit"}:
                return
            if command == "/reset":
                self.messages = list(self._beginning)
                _tell("The conversation is forgotten.")
            elif command.startswith("/"):
                _tell(HELP)
            elif command:
                self.turn(line)

    def turn(self, text: str) -> None:
        """Say `text` and print the answer."""
        before = list(self.messages)
        self.messages.append({"role": "user", "content": text})
        try:
            answer = self._answer()
        except EngineError as error:
            self.messages = before
            _tell(f"error: {error}")
            return
        except KeyboardInterrupt:  # while the prompt was written
            self.messages = before
            print(flush=True)
            return
        if answer.finish is None and not answer.text:  # stopped before the first token
            self.messages = before
            return
        self.messages.append({"role": "assistant", "content": answer.text})
        if self._is_verbose and answer.finish is not None:
            from libertai_engine.cli import terminal

            _tell(terminal.figures(answer.finish))

    def _answer(self) -> Spoken:
        from libertai_engine.cli import terminal
        from libertai_engine.text.chat_template import render

        tokenizer = self._engine.tokenizer
        prompt = render(
            self._template,
            self.messages,
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.eos_token,
        )
        prompt_ids = tuple(tokenizer.encode(prompt, add_special=True))
        answer = terminal.speak(self._engine, replace(self._request, prompt_ids=prompt_ids))
        print(flush=True)
        return answer


def _chatml() -> tuple[str, tuple[str, ...]]:
    """The template of a model that brings none; its marks are text to such a model."""
    from libertai_engine.text.chat_template import CHATML

    return CHATML, ("<|im_end|>", "<|im_start|>")


def _read_line() -> str | None:
    """What the person typed; None at the end of input. Ctrl-C only drops the line."""
    is_person = sys.stdin.isatty()
    while True:
        try:
            return input("> " if is_person else "")
        except EOFError:
            if is_person:
                print()
            return None
        except KeyboardInterrupt:
            print()


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
