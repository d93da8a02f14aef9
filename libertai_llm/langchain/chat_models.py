"""`ChatLibertai`: LangChain's chat model over the llama-like API, remote or in-process.

In: messages. Out: an answer, whole or streamed. The chat template of the model turns messages into
the prompt here, because the llama-like API takes prompts and not messages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import (
    BaseChatModel,
    LangSmithParams,
    LanguageModelInput,
    ModelProfile,
)
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool
from pydantic import ConfigDict

from libertai_llm.answer_plan import AnswerPlan
from libertai_llm.langchain.base import BaseLibertai
from libertai_llm.langchain.chunks import ChunkMaker
from libertai_llm.langchain.messages import read_messages
from libertai_llm.langchain.options import with_thread
from libertai_llm.langchain.output import chat_result, combine_llm_outputs
from libertai_llm.langchain.profile import profile_of
from libertai_llm.langchain.structured import Method, structured_chat
from libertai_llm.langchain.tools import bound_options, plan_of
from libertai_llm.options import PLACEMENT, CallOptions, merged_extra, split_options
from libertai_llm.prompt import ChatTemplate


class ChatLibertai(BaseLibertai, BaseChatModel):
    """A chat model behind `base_url`, or run in this process by `engine`.

    Neither given: `LIBERTAI_API_BASE` if it is set, else the bundled demo model. A conversation
    keeps its cookies and its slot, so that each turn evaluates only what is new; name it with
    `config={"configurable": {"thread_id": "…"}}`, or let it be recognised by what was said.

    Invariant: the prompt of a turn begins with the prompt and the answer of the turn before, as
    far as the chat template allows. Errors are both `LibertaiError`s and LangChain's
    `ModelError`s. Example:

        chat = ChatLibertai(base_url="http://127.0.0.1:8080", temperature=0.7)
        chat.invoke("Hello!", config={"configurable": {"thread_id": "1"}})
    """

    model_config = ConfigDict(extra="forbid")

    chat_template: str | None = None
    """Jinja2 source, or "chatml". None: the server's own; ChatML if it tells none."""
    reasoning: bool | None = None
    """Whether answers begin with thoughts, which are kept apart, in
    `additional_kwargs["reasoning_content"]`. None: if the template shows that the model thinks."""

    @property
    def _llm_type(self) -> str:
        return "libertai-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        own = {"chat_template": self.chat_template, "reasoning": self.reasoning}
        return self._identity() | {name: each for name, each in own.items() if each is not None}

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answer. Keyword arguments are options of this call only, such as `temperature=0`."""
        return super().invoke(input, config, stop=stop, **with_thread(config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """`invoke` without blocking."""
        return await super().ainvoke(input, config, stop=stop, **with_thread(config, kwargs))

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Answer in chunks as they come; closing the iterator stops the server."""
        return super().stream(input, config, stop=stop, **with_thread(config, kwargs))

    def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """`stream` without blocking."""
        return super().astream(input, config, stop=stop, **with_thread(config, kwargs))

    def stream_events(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """LangChain's event stream, in the conversation that `config` names."""
        return super().stream_events(input, config, **with_thread(config, kwargs))

    def astream_events(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """`stream_events` without blocking."""
        return super().astream_events(input, config, **with_thread(config, kwargs))

    def bind_tools(
        self,
        tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: Mapping[str, Any] | str | bool | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        response_format: Mapping[str, Any] | type | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The same model with tools that it may call.

        `tools` are functions, LangChain's tools, pydantic classes, TypedDicts, or definitions in
        JSON. `tool_choice`: None or "auto" (text or a call), "any", "required" or True (a call),
        "none" (text), or a tool's name (that call). One call an answer, unless
        `parallel_tool_calls`. With a `response_format`, an answer is a call or JSON of that format.
        A grammar holds the model to all of it, so `strict` changes nothing but what the model is
        told. Raises `InvalidOption` (a `ValueError`) for a choice that is no tool.
        """
        options = bound_options(tools, tool_choice, strict, parallel_tool_calls, response_format)
        return self.bind(**options, **kwargs)

    def with_structured_output(
        self,
        schema: Mapping[str, Any] | type | None = None,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        tools: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """A chain whose answers are objects of a pydantic class, a TypedDict or a JSON schema.

        `method`: "json_schema" (the answer is JSON), "function_calling" (a call whose arguments
        are), or "json_mode" (JSON that the prompt asks for, of `schema` if there is one). A grammar
        holds the answer to the schema in each. An answer that was cut off raises
        `TruncatedAnswer` with its text; `include_raw` gives `{"raw", "parsed", "parsing_error"}`
        instead. With `tools`, the model may call one of them first.
        """
        return structured_chat(
            self,
            schema,
            method=method,
            include_raw=include_raw,
            strict=strict,
            tools=tools,
            options=kwargs,
        )

    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Tokens of the prompt that these messages become: what `input_tokens` will say.

        Only the server knows what images take, so it is asked to read a prompt that shows some.
        """
        asked = self._ask(messages, None, {"tools": tools} if tools else {})(
            self._connect().template(self.chat_template)
        )
        if asked.call.options.get("image_data"):
            call = asked.call.evaluating_only()
            return self._connect().complete(call, asked.prompt).tokens_evaluated
        if self.custom_get_token_ids is not None:
            return len(self.custom_get_token_ids(asked.prompt))
        return len(self._connect().tokenize(asked.prompt, add_special=True))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        asks = self._ask(messages, stop, kwargs)
        asked = asks(self._connect().template(self.chat_template))
        completion = self._connect().complete(asked.call, asked.prompt)
        return chat_result(completion, asked.call.model, asked.plan.read(completion.content))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        asks = self._ask(messages, stop, kwargs)
        asked = asks(await self._connect().atemplate(self.chat_template))
        completion = await self._connect().acomplete(asked.call, asked.prompt)
        return chat_result(completion, asked.call.model, asked.plan.read(completion.content))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        asks = self._ask(messages, stop, kwargs)
        asked = asks(self._connect().template(self.chat_template))
        maker = ChunkMaker(asked.call.model, asked.plan.parser())
        with closing(self._connect().stream(asked.call, asked.prompt)) as events:
            for chunk in (chunk for event in events for chunk in maker.chunks(event)):
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        asks = self._ask(messages, stop, kwargs)
        asked = asks(await self._connect().atemplate(self.chat_template))
        maker = ChunkMaker(asked.call.model, asked.plan.parser())
        async with aclosing(self._connect().astream(asked.call, asked.prompt)) as events:
            async for event in events:
                for chunk in maker.chunks(event):
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    def _ask(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, given: Mapping[str, Any]
    ) -> Callable[[ChatTemplate], _Asked]:
        """What is asked for, checked before anything is sent; complete with the chat template."""
        plan, rest = plan_of(given)
        reasoning = rest.pop("reasoning", None)
        reasoning = self.reasoning if reasoning is None else reasoning
        call = self._call(stop, rest)
        return lambda template: _asked(template, messages, call, plan, reasoning)

    def _resolve_model_profile(self) -> ModelProfile | None:
        return profile_of(self.engine, self.max_tokens)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._ls_params("chat", stop, kwargs)

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """The model's part of a cache key: whatever can change the answer, the call's own too."""
        given = split_options(kwargs)[0]
        if "extra_body" in given:
            given["extra_body"] = merged_extra(self.extra_body, given["extra_body"])
        if kwargs.get("reasoning") is not None:
            given["reasoning"] = kwargs["reasoning"]
        # NOTE: the plan and not the tools as they were given: classes may share a name, functions
        # an address. The version is that of the message's content.
        own = {"plan": plan_of(kwargs)[0], "output_version": self.output_version}
        options = {**self._identifying_params, **given, **own, "stop": self._stops(stop)}
        named = {name: value for name, value in options.items() if name not in PLACEMENT}
        return f"{self._llm_type} {sorted(named.items())}"

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None]) -> dict[str, Any]:
        return combine_llm_outputs(llm_outputs)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is sent, and how its answer is to be read."""

    call: CallOptions
    prompt: str
    plan: AnswerPlan


def _asked(
    template: ChatTemplate,
    messages: Sequence[BaseMessage],
    call: CallOptions,
    plan: AnswerPlan,
    reasoning: bool | None,
) -> _Asked:
    """The prompt, and the call with the template's stop words and the plan's grammar."""
    conversation = read_messages(messages)
    prompt = template.render(conversation.messages, plan.definitions)
    begins = template.reasoning(prompt)
    if reasoning is not None:
        begins = "none" if not reasoning else "begun" if begins == "begun" else "optional"
    plan, call = replace(plan, reasoning=begins).holding(call)
    call = call.stopping_at(template.stops).showing(conversation.image_data)
    return _Asked(call, prompt, plan)
