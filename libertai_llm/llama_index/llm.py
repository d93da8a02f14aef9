"""`Libertai`: LlamaIndex's model class over the llama-like API, remote or in-process.

In: messages or text, tools, classes of objects. Out: answers, whole or streamed, tool calls,
objects. The chat template of the model turns messages into the prompt here, because the llama-like
API takes prompts and not messages; grammars hold calls and objects to their form.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
)
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.tools.types import BaseTool
from llama_index.core.types import PydanticProgramMode
from llama_index_instrumentation import get_dispatcher
from typing_extensions import override

from libertai_llm.llama_index import tools as calling
from libertai_llm.llama_index.answers import ChatReader, TextReader
from libertai_llm.llama_index.base import BaseLibertai
from libertai_llm.llama_index.structured import Object, ObjectReader, object_of, options_for

dispatcher = get_dispatcher(__name__)


class Libertai(BaseLibertai):
    """A chat model behind `base_url`, or run in this process by `engine`.

    Neither given: `LIBERTAI_API_BASE` if it is set, else the bundled demo model. A conversation
    keeps its cookies and its slot, so that each turn evaluates only what is new: it is recognised
    by what was said, or named with `with_session("…")`, or `thread_id="…"` at a call. Keyword
    arguments of a call are options of this call only, under the names of the fields.

    Invariant: the prompt of a turn begins with the prompt and the answer of the turn before, as
    far as the chat template allows; nothing that LlamaIndex adds to messages gets into it. A call
    raises one of `libertai_llm.errors`. Example:

        llm = Libertai(base_url="http://127.0.0.1:8080", temperature=0.7)
        llm.chat([ChatMessage("Hello!")])
    """

    @classmethod
    def class_name(cls) -> str:
        """The name under which the class is written down."""
        return "Libertai_llm"

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer. Keyword arguments are options of this call only, such as `temperature=0`."""
        question = self._ask(messages, kwargs, self._template())
        return ChatReader(question.parser()).whole(
            self._connect().complete(question.call, question.prompt)
        )

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer chunk by chunk; closing the generator stops the server."""
        return self._stream_chat(messages, kwargs)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """`chat` without blocking."""
        question = self._ask(messages, kwargs, await self._atemplate())
        return ChatReader(question.parser()).whole(
            await self._connect().acomplete(question.call, question.prompt)
        )

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """`stream_chat` without blocking."""
        return self._astream_chat(messages, kwargs)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Go on where a text ends; no chat template is used.

        Unless the text is `formatted` already, `completion_to_prompt` is applied, if there is one.
        """
        text = self._prompt(prompt, formatted)
        return TextReader().whole(self._connect().complete(self._text_call(kwargs), text))

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """`complete` chunk by chunk; closing the generator stops the server."""
        return self._stream_complete(self._prompt(prompt, formatted), kwargs)

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """`complete` without blocking."""
        text = self._prompt(prompt, formatted)
        return TextReader().whole(await self._connect().acomplete(self._text_call(kwargs), text))

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """`stream_complete` without blocking."""
        return self._astream_complete(self._prompt(prompt, formatted), kwargs)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls of an answer, of a streamed one as far as they came.

        Raises `NoToolCall` (a `ValueError`) if there is none, unless that is no error.
        """
        return calling.selections_of(response, is_required=error_on_no_tool_call)

    @override
    def stream_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> ChatResponseGen:
        """A chat in which tools may be called, chunk by chunk; one tool, unless told otherwise."""
        # NOTE: LlamaIndex's programs forget to say that they need a call.
        makes_object = calling.makes_an_object(tools)
        required = tool_required or makes_object
        parallel = allow_parallel_tool_calls
        stream = super().stream_chat_with_tools(
            tools, user_msg, chat_history, verbose, parallel, required, **kwargs
        )
        return (calling.streamed(each, parallel=parallel, mirrored=makes_object) for each in stream)

    @override
    async def astream_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> ChatResponseAsyncGen:
        """`stream_chat_with_tools` without blocking."""
        makes_object = calling.makes_an_object(tools)
        required = tool_required or makes_object
        parallel = allow_parallel_tool_calls
        stream = await super().astream_chat_with_tools(
            tools, user_msg, chat_history, verbose, parallel, required, **kwargs
        )
        return (
            calling.streamed(each, parallel=parallel, mirrored=makes_object)
            async for each in stream
        )

    def structured_predict(
        self,
        output_cls: type[Object],
        prompt: PromptTemplate,
        llm_kwargs: Mapping[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Object:
        """An object of the class, which a grammar holds the answer to.

        `llm_kwargs` are options of this call. Raises `TruncatedAnswer` if the tokens ran out,
        `InvalidAnswer` if the class refuses what was said, `UnsupportedSchema` if there is no
        grammar for the class. Other `pydantic_program_mode`s than the default are LlamaIndex's.
        """
        if self.pydantic_program_mode is not PydanticProgramMode.DEFAULT:
            given = dict(llm_kwargs or {})
            found: Object = super().structured_predict(output_cls, prompt, given, **prompt_args)
            return found
        dispatcher.event(_start(output_cls, prompt, prompt_args))
        messages = self._written(prompt, prompt_args)
        response = self.chat(messages, **options_for(output_cls, llm_kwargs))
        result: Object = object_of(response, output_cls)
        dispatcher.event(LLMStructuredPredictEndEvent(output=result))
        return result

    async def astructured_predict(
        self,
        output_cls: type[Object],
        prompt: PromptTemplate,
        llm_kwargs: Mapping[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Object:
        """`structured_predict` without blocking."""
        if self.pydantic_program_mode is not PydanticProgramMode.DEFAULT:
            given = dict(llm_kwargs or {})
            asked = super().astructured_predict(output_cls, prompt, given, **prompt_args)
            found: Object = await asked
            return found
        dispatcher.event(_start(output_cls, prompt, prompt_args))
        messages = self._written(prompt, prompt_args)
        response = await self.achat(messages, **options_for(output_cls, llm_kwargs))
        result: Object = object_of(response, output_cls)
        dispatcher.event(LLMStructuredPredictEndEvent(output=result))
        return result

    def _structured_stream_call(
        self,
        output_cls: type[Object],
        prompt: PromptTemplate,
        llm_kwargs: Mapping[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        """What there is of the object so far, and at last the object."""
        if self.pydantic_program_mode is not PydanticProgramMode.DEFAULT:
            given = dict(llm_kwargs or {})
            yield from super()._structured_stream_call(output_cls, prompt, given, **prompt_args)
            return
        reader = ObjectReader(output_cls)
        messages = self._written(prompt, prompt_args)
        for response in self.stream_chat(messages, **options_for(output_cls, llm_kwargs)):
            yield reader.read(response)
        yield reader.whole()

    async def _structured_astream_call(
        self,
        output_cls: type[Object],
        prompt: PromptTemplate,
        llm_kwargs: Mapping[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        """`_structured_stream_call` without blocking."""
        if self.pydantic_program_mode is not PydanticProgramMode.DEFAULT:
            given = dict(llm_kwargs or {})
            return await super()._structured_astream_call(output_cls, prompt, given, **prompt_args)
        messages = self._written(prompt, prompt_args)
        stream = await self.astream_chat(messages, **options_for(output_cls, llm_kwargs))
        return _objects(stream, ObjectReader(output_cls))

    @override
    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        choice = tool_choice or ("required" if tool_required else "auto")
        return calling.chat_arguments(
            tools,
            user_msg,
            chat_history,
            choice=choice,
            is_parallel=allow_parallel_tool_calls,
            options=kwargs,
        )

    def _validate_chat_with_tools_response(
        self,
        response: ChatResponse,
        tools: Sequence[BaseTool],
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> ChatResponse:
        return response if allow_parallel_tool_calls else calling.with_one_call(response)

    def _written(
        self, prompt: BasePromptTemplate, arguments: Mapping[str, Any]
    ) -> list[ChatMessage]:
        """The messages of a prompt, after the system prompt."""
        return self._extend_messages(prompt.format_messages(llm=self, **arguments))

    def _stream_chat(
        self, messages: Sequence[ChatMessage], given: Mapping[str, Any]
    ) -> Generator[ChatResponse, None, None]:
        question = self._ask(messages, given, self._template())
        reader = ChatReader(question.parser())
        with closing(self._connect().stream(question.call, question.prompt)) as chunks:
            for chunk in chunks:
                yield reader.chunk(chunk)

    async def _astream_chat(
        self, messages: Sequence[ChatMessage], given: Mapping[str, Any]
    ) -> AsyncGenerator[ChatResponse, None]:
        question = self._ask(messages, given, await self._atemplate())
        reader = ChatReader(question.parser())
        async with aclosing(self._connect().astream(question.call, question.prompt)) as chunks:
            async for chunk in chunks:
                yield reader.chunk(chunk)

    def _stream_complete(
        self, prompt: str, given: Mapping[str, Any]
    ) -> Generator[CompletionResponse, None, None]:
        reader = TextReader()
        with closing(self._connect().stream(self._text_call(given), prompt)) as chunks:
            for chunk in chunks:
                yield reader.chunk(chunk)

    async def _astream_complete(
        self, prompt: str, given: Mapping[str, Any]
    ) -> AsyncGenerator[CompletionResponse, None]:
        reader = TextReader()
        async with aclosing(self._connect().astream(self._text_call(given), prompt)) as chunks:
            async for chunk in chunks:
                yield reader.chunk(chunk)


def _start(
    output_cls: type[Object], prompt: BasePromptTemplate, arguments: Mapping[str, Any]
) -> LLMStructuredPredictStartEvent:
    return LLMStructuredPredictStartEvent(
        output_cls=output_cls, template=prompt, template_args=dict(arguments)
    )


async def _objects(stream: ChatResponseAsyncGen, reader: ObjectReader) -> AsyncGenerator[Any, None]:
    async for response in stream:
        yield reader.read(response)
    yield reader.whole()
