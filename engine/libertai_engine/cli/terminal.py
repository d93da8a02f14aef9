"""Answers on a terminal: text as it comes, Ctrl-C for the answer alone.

In: an engine and a request. Out: text on stdout, the answer as a value.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from libertai_engine.engine import Engine
from libertai_engine.sequence import Finish, Request

# Terminal commands, line feed and tab excepted: a model must not move the cursor or set titles.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Spoken:
    """An answer as far as it went. `finish` is None if it was interrupted."""

    text: str
    finish: Finish | None


def speak(engine: Engine, request: Request) -> Spoken:
    """Print the answer while it is made. Ctrl-C ends it early, and only it.

    Raises `EngineError`. What has been printed ends without a line feed.
    """
    parts: list[str] = []
    stream = engine.submit(request)
    finish = None
    try:
        for delta in stream:
            parts.append(delta.text)
            show(delta.text)
            finish = delta.finish
    except KeyboardInterrupt:
        finish = None
    finally:
        stream.abort()
    return Spoken("".join(parts), finish)


def show(text: str) -> None:
    """Print at once, without what a terminal would take for a command."""
    sys.stdout.write(_CONTROL.sub("\ufffd", text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def tell(text: str) -> None:
    """A line to the person, apart from the answer."""
    print(text, file=sys.stderr, flush=True)


def figures(finish: Finish) -> str:
    """Speed and reuse of one answer, in a line."""
    milliseconds = finish.timings.predicted_ms
    speed = 1e3 * finish.num_generated / milliseconds if milliseconds > 0 else 0.0
    return (
        f"[{finish.num_generated} tokens, {speed:.1f} tokens/s, "
        f"{finish.num_cached} of {finish.num_prompt_tokens} prompt tokens from the cache]"
    )
