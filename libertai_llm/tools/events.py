"""What the parser of answers tells, as it reads them.

In: nothing. Out: the events of a stream, and an answer as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of the text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call whose name is known. `index` counts the calls of an answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """More of the arguments' JSON text."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call is whole: its arguments are a JSON object."""

    index: int


@dataclass(frozen=True, slots=True)
class CallInvalid:
    """The call is broken or cut off, and must not be made.

    `text` is everything that was written of it; `name` is None, and no `CallStarted` came before,
    if its name was not found. `arguments` is the raw text of the arguments, as far as it came.
    """

    index: int
    id: str
    name: str | None
    arguments: str
    text: str
    reason: str


Event: TypeAlias = (
    ContentDelta | ReasoningDelta | CallStarted | ArgumentsDelta | CallEnded | CallInvalid
)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call to make. `arguments` is the text of a JSON object, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class InvalidToolCall:
    """A call that cannot be made: see `CallInvalid`."""

    id: str
    name: str | None
    arguments: str
    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """An answer taken apart. Nothing of its text is lost but marks and the space around them."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    invalid_tool_calls: tuple[InvalidToolCall, ...] = ()
