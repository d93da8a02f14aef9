"""Events of a stream become message chunks.

In: the client's chunks, and what the parser makes of their texts. Out: LangChain's chunks, which
add up to the message that a whole answer would be.

NOTE: LangChain merges chunks by `index`, and numbers blocks of text and reasoning itself, from 0 on
in the order they come, counting several calls in a row as one. So calls are numbered after what
comes before the first, in steps of two: a text between two calls takes a number between theirs.
Under a number of its own, none vanishes in another.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk as create_tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.utils.json import parse_partial_json

from libertai_llm.langchain.output import REASONING, chunk_metadata, finish_of_calls, usage
from libertai_llm.settings import PROVIDER
from libertai_llm.tools import (
    ArgumentsDelta,
    CallEnded,
    CallInvalid,
    CallStarted,
    ContentDelta,
    Event,
    ReasoningDelta,
    ToolCallParser,
)
from libertai_llm.types import CompletionChunk


class ChunkMaker:
    """Makes the message chunks of one answer.

    Invariant: each chunk is text, reasoning, or one call's, never two of them; usage and metadata
    are on the last one alone. Without a parser the text is passed on as it is.
    """

    def __init__(self, model: str, parser: ToolCallParser | None) -> None:
        self._model = model
        self._parser = parser
        self._kinds_before: set[type[Event]] = set()
        self._first_place: int | None = None
        self._has_calls = False

    def chunks(self, chunk: CompletionChunk) -> Iterator[ChatGenerationChunk]:
        """What one event of the stream brings; nothing while it may be a mark's beginning."""
        if self._parser is None:
            yield self._told(chunk, chunk.content)
            return
        events = self._parser.feed(chunk.content)
        if chunk.final:
            events = [*events, *self._parser.finish()]
        yield from chain.from_iterable(map(self._of_event, events))
        if chunk.final or chunk.probs:
            yield self._told(chunk, "")

    def _told(self, chunk: CompletionChunk, content: str) -> ChatGenerationChunk:
        """A text with everything that is told beside it."""
        metadata = chunk_metadata(chunk, self._model)
        if chunk.final is None:
            message = AIMessageChunk(content=content, response_metadata=metadata)
        else:
            message = AIMessageChunk(
                content=content,
                usage_metadata=usage(chunk.final),
                response_metadata=metadata | finish_of_calls(metadata, self._has_calls),
                chunk_position="last",
            )
        return ChatGenerationChunk(message=message)

    def _of_event(self, event: Event) -> Iterator[ChatGenerationChunk]:
        match event:
            case ContentDelta(text):
                self._kinds_before.add(ContentDelta)
                yield _chunk(content=text)
            case ReasoningDelta(text):
                self._kinds_before.add(ReasoningDelta)
                yield _chunk(content="", additional_kwargs={REASONING: text})
            case CallStarted(index, call_id, name):
                yield self._of_call(index, name=name, args="", id=call_id)
            case ArgumentsDelta(index, text):
                yield self._of_call(index, args=text)
            case CallEnded():
                self._has_calls = True
            case CallInvalid():
                yield self._of_broken(event)

    def _of_broken(self, event: CallInvalid) -> ChatGenerationChunk:
        """The end of a call that must not be made, whoever adds up the chunks."""
        if event.name is not None:
            return self._of_call(event.index, args=spoiling(event.arguments))
        args = event.text + spoiling(event.text)
        return self._of_call(event.index, args=args, id=event.id)

    def _of_call(self, index: int, **fields: Any) -> ChatGenerationChunk:
        named = {"name": None, "id": None, **fields}
        if self._first_place is None:
            self._first_place = len(self._kinds_before)
        place = self._first_place + 2 * index
        return _chunk(content="", tool_call_chunks=[create_tool_call_chunk(index=place, **named)])


def spoiling(arguments: str) -> str:
    """What makes it sure that nobody takes broken arguments for whole ones.

    NOTE: LangChain completes the JSON of a message that was streamed, so a call that was cut off in
    the middle of a path or a command would look as if it were meant so. A bracket that closes
    nothing is the one thing it does not repair.
    """
    tails = ("", "]", "}", '"]', '"}', '""]', '""}')
    return next((tail for tail in tails if _is_refused(arguments + tail)), '"]}]')


def _is_refused(arguments: str) -> bool:
    """Whether LangChain sees that these arguments are broken; it takes none for no arguments."""
    if not arguments:
        return False
    try:
        return not isinstance(parse_partial_json(arguments), dict)
    except (ValueError, RecursionError):
        return True


def _chunk(**fields: Any) -> ChatGenerationChunk:
    message = AIMessageChunk(response_metadata={"model_provider": PROVIDER}, **fields)
    return ChatGenerationChunk(message=message)
