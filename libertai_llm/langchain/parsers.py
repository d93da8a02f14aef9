"""Answers become objects, or typed errors with the answer's text; never half an object, never None.

In: an answer's text, or the arguments of its call. Out: a dict, or an object of a pydantic class;
while a stream goes on, what there is of a dict so far.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from functools import reduce
from operator import add
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import BaseCumulativeTransformOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.utils.json import parse_partial_json
from langchain_core.utils.pydantic import is_basemodel_subclass

from libertai_llm.errors import LibertaiError
from libertai_llm.tools import parse_answer


class InvalidAnswer(OutputParserException, LibertaiError):
    """An answer that is no object of the schema. `llm_output` is its text."""


class TruncatedAnswer(InvalidAnswer):
    """The tokens ran out before the object was whole: `max_tokens` is too small."""


class ObjectParser(BaseCumulativeTransformOutputParser[Any]):
    """Reads objects. Invariant: at an answer's end there is an object, or an `InvalidAnswer`.

    `target` is a pydantic class, or None for dicts; `may_call`: an answer that calls a tool instead
    is no error, and gives None.
    """

    target: Any = None
    may_call: bool = False

    def parse(self, text: str) -> Any:
        """The object in a text."""
        return self.parse_result([Generation(text=text)])

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """The object in an answer; with `partial`, what there is of a dict, or None."""
        if partial:
            return None if self.target else _partial(self._text(result[0]))
        text = self._text(result[0])
        if text is None:
            return None
        return self._object(text, _finish_reason(result[0]))

    def _text(self, generation: Generation) -> str | None:
        """The JSON text of the object; None if the answer calls a tool instead."""
        raise NotImplementedError

    def _object(self, text: str, finish_reason: str | None) -> Any:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            is_cut = finish_reason == "length" or (
                finish_reason is None and _partial(text) is not None
            )
            raise _failure(text, is_cut) from error
        if self.target is None:
            return found
        try:
            return _validated(self.target, text)
        except ValueError as error:
            raise InvalidAnswer(f"the answer does not fit: {error}", llm_output=text) from error

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[Any]:
        """NOTE: the base class says nothing if a stream ends with half an object."""
        seen: list[Any] = []

        def noted() -> Iterator[str | BaseMessage]:
            for chunk in input:
                seen.append(_as_chunk(chunk))
                yield seen[-1]

        last = None
        for last in super()._transform(noted()):
            yield last
        yield from self._rest(seen, last)

    async def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Any]:
        seen: list[Any] = []

        async def noted() -> AsyncIterator[str | BaseMessage]:
            async for chunk in input:
                seen.append(_as_chunk(chunk))
                yield seen[-1]

        last = None
        async for last in super()._atransform(noted()):
            yield last
        for rest in self._rest(seen, last):
            yield rest

    def _rest(self, seen: list[Any], last: Any) -> Iterator[Any]:
        """The whole object at a stream's end, if it has not been told."""
        if not seen:
            return
        whole = reduce(add, seen)
        is_text = isinstance(whole, str)
        found = self.parse_result(
            [Generation(text=whole) if is_text else ChatGeneration(message=whole)]
        )
        if found is not None and found != last:
            yield found


class JsonParser(ObjectParser):
    """Reads answers that are JSON."""

    def _text(self, generation: Generation) -> str | None:
        if self.may_call and _message(generation).tool_calls:
            return None
        return generation.text


class ArgumentsParser(ObjectParser):
    """Reads the arguments of a call; `is_text`: from the text of a plain LLM."""

    call_name: str
    is_text: bool = False

    def _text(self, generation: Generation) -> str | None:
        calls = _calls_in_text(generation.text) if self.is_text else _calls(_message(generation))
        for name, arguments in calls:
            if name == self.call_name:
                return arguments
        is_other = self.may_call and bool(_message(generation).tool_calls)
        return None if is_other else generation.text


def object_class(schema: Any) -> Any:
    """The pydantic class that answers become, or None: they stay dicts."""
    return schema if isinstance(schema, type) and is_basemodel_subclass(schema) else None


def _calls(message: AIMessage) -> list[tuple[str | None, str]]:
    """Names and arguments of the calls, invalid ones too."""
    if isinstance(message, AIMessageChunk):
        return [(each["name"], each["args"] or "") for each in message.tool_call_chunks]
    valid = [(call["name"], json.dumps(call["args"])) for call in message.tool_calls]
    return [*valid, *((call["name"], call["args"] or "") for call in message.invalid_tool_calls)]


def _calls_in_text(text: str) -> list[tuple[str | None, str]]:
    answer = parse_answer(text)
    valid = [(call.name, call.arguments) for call in answer.tool_calls]
    return [*valid, *((call.name, call.arguments) for call in answer.invalid_tool_calls)]


def _message(generation: Generation) -> AIMessage:
    message = generation.message if isinstance(generation, ChatGeneration) else None
    return message if isinstance(message, AIMessage) else AIMessage(generation.text)


def _finish_reason(generation: Generation) -> str | None:
    reason = _message(generation).response_metadata.get("finish_reason")
    return reason if isinstance(reason, str) else None


def _as_chunk(message: Any) -> Any:
    """A message as a chunk: a model that does not stream sends it whole."""
    if not isinstance(message, AIMessage) or isinstance(message, AIMessageChunk):
        return message
    return AIMessageChunk(**message.model_dump(exclude={"type"}))


def _partial(text: str | None) -> dict[str, Any] | None:
    try:
        found = parse_partial_json(text or "")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _failure(text: str, is_cut: bool) -> InvalidAnswer:
    if is_cut:
        message = "the answer was cut off before its JSON was whole: raise `max_tokens`"
        return TruncatedAnswer(f"{message}\n{text}", llm_output=text)
    return InvalidAnswer(f"the answer is not JSON: {text}", llm_output=text)


def _validated(target: Any, text: str) -> Any:
    """NOTE: as JSON, where a strict class takes a text for a date; pydantic's first version has
    another name for it."""
    if hasattr(target, "model_validate_json"):
        return target.model_validate_json(text)
    return target.parse_raw(text)
