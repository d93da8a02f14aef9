"""Structured output: answers that a grammar holds to a pydantic class.

In: a class and a prompt; then the answer, perhaps in pieces. Out: the arguments of the chat, and
objects. Pure, the same for sync and async.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from llama_index.core.base.llms.types import ChatResponse
from llama_index.core.program.utils import create_flexible_model
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from libertai_llm.errors import LibertaiError

Object = TypeVar("Object", bound=BaseModel)

# What LlamaIndex's programs say to models that get objects by tool calls.
_ABOUT_TOOLS = frozenset({"tool_choice", "tool_required", "allow_parallel_tool_calls"})


class InvalidAnswer(LibertaiError, ValueError):
    """An answer that is no object of the class. `partial_text` is what was said."""


class TruncatedAnswer(InvalidAnswer):
    """The tokens ran out before the object was whole: `max_tokens` is too small."""


def options_for(output_cls: type[BaseModel], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The given options, which stay as they are, for an answer that is an object of the class."""
    options = {name: value for name, value in (given or {}).items() if name not in _ABOUT_TOOLS}
    schema = {"name": output_cls.__name__, "schema": output_cls.model_json_schema()}
    return {**options, "response_format": {"type": "json_schema", "json_schema": schema}}


def object_of(response: ChatResponse, output_cls: type[Object]) -> Object:
    """The object in an answer. Raises `TruncatedAnswer`, or `InvalidAnswer` saying why."""
    text = response.message.content or ""
    try:
        return output_cls.model_validate_json(text)
    except ValidationError as error:
        raise _failure(response, error) from error


class ObjectReader:
    """A streamed answer becoming an object.

    Invariant: `object` holds as much of it as has come, as an object of the class once that is
    possible, before as one of LlamaIndex's that lacks fields.
    """

    def __init__(self, output_cls: type[BaseModel]) -> None:
        self._output_cls = output_cls
        self._flexible_cls = create_flexible_model(output_cls)
        self._last: ChatResponse | None = None
        self.object: BaseModel = self._flexible_cls()

    def read(self, response: ChatResponse) -> BaseModel:
        """The object so far."""
        self._last = response
        try:
            found = from_json(response.message.content or "", allow_partial="trailing-strings")
        except ValueError:
            return self.object
        if isinstance(found, dict):
            self.object = self._as_object(found)
        return self.object

    def whole(self) -> BaseModel:
        """The object at the answer's end. Raises `TruncatedAnswer` or `InvalidAnswer`."""
        assert self._last is not None, "the model's streams end with the whole answer"
        return object_of(self._last, self._output_cls)

    def _as_object(self, found: dict[str, Any]) -> BaseModel:
        try:
            return self._output_cls.model_validate(found)
        except ValidationError:
            return self._flexible_cls.model_validate(found)


def _failure(response: ChatResponse, error: ValidationError) -> InvalidAnswer:
    is_broken = any(each["type"] == "json_invalid" for each in error.errors())
    is_cut = is_broken and response.additional_kwargs.get("finish_reason") == "length"
    failure = InvalidAnswer(f"the answer does not fit: {error}")
    if is_cut:
        failure = TruncatedAnswer("the answer was cut off: give it more `max_tokens`")
    failure.partial_text = response.message.content or ""
    return failure
