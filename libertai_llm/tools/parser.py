"""Answers taken apart while they come: reasoning, text, and tool calls.

In: an answer's text in pieces. Out: events. Whatever the pieces are, the events say the same, and
no text makes the parser raise.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

from libertai_llm.tools.definitions import HERMES, CallSyntax, Reasoning
from libertai_llm.tools.events import (
    ArgumentsDelta,
    CallEnded,
    CallInvalid,
    CallStarted,
    ContentDelta,
    Event,
    InvalidToolCall,
    ParsedAnswer,
    ReasoningDelta,
    ToolCall,
)
from libertai_llm.tools.scanner import CallScanner

_Place = Literal["start", "reasoning", "content", "call", "broken", "after"]


def new_call_id() -> str:
    """An id for a call that the model gave none."""
    return f"call_{uuid.uuid4().hex}"


class ToolCallParser:
    """Reads one answer. Use `feed` for each piece, then `finish` once.

    `calls` False: tool calls are not looked for; with `may_be_json` not in an answer that begins
    as JSON, which may speak of one; `reasoning` says whether reasoning is looked for. Spaces
    around marks belong to the marks. Text is held back only as long as it may be the beginning of
    a mark; arguments are passed on as they come.

    Invariant: `_held` is read but not told yet; between calls of `feed` it is empty, unless a mark
    or the space before one may have begun in it. `_more_space` comes after it, if it `_is_space`.
    """

    def __init__(
        self,
        *,
        calls: bool = True,
        may_be_json: bool = False,
        reasoning: Reasoning = "none",
        syntax: CallSyntax = HERMES,
        make_id: Callable[[], str] = new_call_id,
    ) -> None:
        self._syntax = syntax
        self._looks_for_calls = calls
        self._may_be_json = may_be_json
        self._make_id = make_id
        self._place: _Place = _BEGINNINGS[reasoning]
        self._held = ""
        self._is_space = False
        self._more_space: list[str] = []
        self._count = 0
        self._scanner = CallScanner()
        self._id = ""
        self._is_call_told = False
        self._trims_start = reasoning == "begun"
        self._has_content = False

    def feed(self, text: str) -> list[Event]:
        """What this piece of the answer brings."""
        # NOTE: models that are lost write spaces without end, which must not be read ever again.
        if self._is_space and not text.strip():
            self._more_space.append(text)
            return []
        self._hold(text)
        events = list(self._advance())
        self._is_space = self._held.isspace()
        return events

    def finish(self) -> list[Event]:
        """What is left at the answer's end."""
        self._hold("")
        return list(self._end())

    def _hold(self, text: str) -> None:
        self._held = "".join([self._held, *self._more_space, text])
        self._more_space.clear()

    def _advance(self) -> Iterator[Event]:
        """Go from place to place until the held text has to wait for more."""
        steps = {
            "start": self._start,
            "reasoning": self._reason,
            "content": self._tell_content,
            "call": self._scan,
            "broken": self._skip,
            "after": self._leave,
        }
        while True:
            place = self._place
            yield from steps[place]()
            if self._place == place:
                return

    def _start(self) -> Iterator[Event]:
        text, mark = self._held.lstrip(), self._syntax.reasoning_opening
        if text.startswith(mark):
            self._place, self._held = "reasoning", text[len(mark) :]
            self._trims_start = True
        elif not mark.startswith(text):
            self._place = "content"
        yield from ()

    def _reason(self) -> Iterator[Event]:
        before, is_over = self._until((self._syntax.reasoning_closing,))
        if before := self._trimmed(before):
            yield ReasoningDelta(before)
        if is_over:
            self._held = self._held[len(self._syntax.reasoning_closing) :]
            self._place, self._trims_start = "content", True

    def _tell_content(self) -> Iterator[Event]:
        marks = (self._syntax.opening,) if self._may_call_here() else ()
        before, is_over = self._until(marks)
        yield from self._content(before)
        if is_over:
            self._held = self._held[len(self._syntax.opening) :]
            self._begin_call()

    def _may_call_here(self) -> bool:
        if self._may_be_json and not self._has_content:
            text = self._held.lstrip()
            self._looks_for_calls &= not text.startswith(("{", "[", '"'))
        return self._looks_for_calls

    def _content(self, text: str) -> Iterator[Event]:
        if text := self._trimmed(text):
            self._has_content = True
            yield ContentDelta(text)

    def _begin_call(self) -> None:
        self._place, self._scanner, self._is_call_told = "call", CallScanner(), False
        self._id = self._make_id()

    def _scan(self) -> Iterator[Event]:
        self._held = self._scanner.feed(self._held)
        yield from self._tell_call()
        if self._scanner.place == "done":
            yield CallEnded(self._count)
            self._count += 1
            self._place = "after"
        elif self._scanner.place == "broken":
            self._place = "broken"

    def _tell_call(self) -> Iterator[Event]:
        """The name once it is known, and what is new of the arguments."""
        name = self._scanner.name
        if name is None:
            return
        if not self._is_call_told:
            self._is_call_told = True
            yield CallStarted(self._count, self._id, name)
        if arguments := self._scanner.new_arguments():
            yield ArgumentsDelta(self._count, arguments)

    def _skip(self) -> Iterator[Event]:
        """Leave a broken call at its end mark, or where the next call begins."""
        before, is_over = self._until((self._syntax.closing, self._syntax.opening))
        self._scanner.add_text(before)
        if is_over:
            yield self._invalid()
            self._place = "after"

    def _leave(self) -> Iterator[Event]:
        """After a call: its end mark, if it has one, and the space before."""
        text, mark = self._held.lstrip(), self._syntax.closing
        self._trims_start = not self._has_content
        if text.startswith(mark):
            self._place, self._held = "content", text[len(mark) :]
        elif not mark.startswith(text):
            self._place = "content"
        yield from ()

    def _end(self) -> Iterator[Event]:
        if self._place == "call":
            self._scanner.end()
            yield from self._tell_call()
            yield CallEnded(self._count) if self._scanner.place == "done" else self._invalid()
        elif self._place == "broken":
            self._scanner.add_text(self._held)
            yield self._invalid()
        elif self._place == "reasoning":
            if rest := self._trimmed(self._held.rstrip()):
                yield ReasoningDelta(rest)
        elif self._place != "after" and (self._held.strip() or not self._count):
            yield from self._content(self._held)
        self._held = ""

    def _until(self, marks: Sequence[str]) -> tuple[str, bool]:
        """The text before the first mark, and whether there is one, where `_held` then begins.

        Without one: the text that cannot be part of a mark, nor of the space before it.
        """
        found = [place for place in map(self._held.find, marks) if place >= 0]
        end = min(found) if found else _end_of_plain(self._held, marks)
        before, self._held = self._held[:end], self._held[end:]
        return (before.rstrip() if found else before), bool(found)

    def _trimmed(self, text: str) -> str:
        """The text, without the space at the beginning of reasoning, or after a mark."""
        if self._trims_start:
            text = text.lstrip()
            self._trims_start = not text
        return text

    def _invalid(self) -> CallInvalid:
        scanner, index = self._scanner, self._count
        self._count += 1
        return CallInvalid(
            index=index,
            id=self._id,
            name=scanner.name,
            arguments=scanner.arguments,
            text=scanner.text.strip(),
            reason=scanner.reason,
        )


def parse_answer(
    text: str,
    *,
    calls: bool = True,
    may_be_json: bool = False,
    reasoning: Reasoning = "none",
    syntax: CallSyntax = HERMES,
    make_id: Callable[[], str] = new_call_id,
) -> ParsedAnswer:
    """A whole answer taken apart: what the parser tells when it is fed all of it at once."""
    parser = ToolCallParser(
        calls=calls, may_be_json=may_be_json, reasoning=reasoning, syntax=syntax, make_id=make_id
    )
    return answer_of([*parser.feed(text), *parser.finish()])


def answer_of(events: Iterable[Event]) -> ParsedAnswer:
    """The answer that all the events of a parser make up."""
    content, thoughts = [], []
    started: dict[int, CallStarted] = {}
    arguments: dict[int, list[str]] = {}
    ended: list[int] = []
    invalid: list[InvalidToolCall] = []
    for event in events:
        match event:
            case ContentDelta(text):
                content.append(text)
            case ReasoningDelta(text):
                thoughts.append(text)
            case CallStarted(index):
                started[index] = event
            case ArgumentsDelta(index, text):
                arguments.setdefault(index, []).append(text)
            case CallEnded(index):
                ended.append(index)
            case CallInvalid(_, id_, name, written, text, reason):
                invalid.append(InvalidToolCall(id_, name, written, text, reason))
    return ParsedAnswer(
        content="".join(content),
        reasoning="".join(thoughts),
        tool_calls=tuple(
            ToolCall(started[index].id, started[index].name, "".join(arguments[index]))
            for index in ended
        ),
        invalid_tool_calls=tuple(invalid),
    )


def _end_of_plain(text: str, marks: Sequence[str]) -> int:
    """Where the longest end of `text` begins that may be space and the beginning of a mark."""
    if not marks:
        return len(text)
    longest = min(len(text), max(map(len, marks)) - 1)
    starts = (
        size for size in range(longest, 0, -1) if any(m.startswith(text[-size:]) for m in marks)
    )
    return len(text[: len(text) - next(starts, 0)].rstrip())


_BEGINNINGS: dict[Reasoning, _Place] = {
    "none": "content",
    "optional": "start",
    "begun": "reasoning",
}
