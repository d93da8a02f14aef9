"""`ChatLibertai`: LangChain's chat model over the llama-like API, remote or in-process.

In: messages. Out: an answer, whole or streamed. The chat template of the model turns messages into
the prompt here, because the llama-like API takes prompts and not messages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from pydantic import ConfigDict

from libertai_llm.langchain.base import BaseLibertai
from libertai_llm.langchain.messages import read_messages
from libertai_llm.langchain.options import with_thread
from libertai_llm.langchain.output import chat_chunk, chat_result, combine_llm_outputs
from libertai_llm.options import PLACEMENT, CallOptions, split_options
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

    @property
    def _llm_type(self) -> str:
        return "libertai-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        template = {"chat_template": self.chat_template} if self.chat_template else {}
        return self._identity() | template

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

    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Tokens of the prompt that these messages become: what `input_tokens` will say.

        Only the server knows what images take, so it is asked to read a prompt that shows some.
        """
        if tools:
            raise NotImplementedError("tools are not supported")
        call, prompt = _ask(
            self._connect().template(self.chat_template), messages, self._call(None, {})
        )
        if call.options.get("image_data"):
            return self._connect().complete(call.evaluating_only(), prompt).tokens_evaluated
        if self.custom_get_token_ids is not None:
            return len(self.custom_get_token_ids(prompt))
        return len(self._connect().tokenize(prompt, add_special=True))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(stop, kwargs)
        template = self._connect().template(self.chat_template)
        completion = self._connect().complete(*_ask(template, messages, call))
        return chat_result(completion, call.model)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(stop, kwargs)
        template = await self._connect().atemplate(self.chat_template)
        completion = await self._connect().acomplete(*_ask(template, messages, call))
        return chat_result(completion, call.model)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._call(stop, kwargs)
        template = self._connect().template(self.chat_template)
        with closing(self._connect().stream(*_ask(template, messages, call))) as chunks:
            for each in chunks:
                chunk = chat_chunk(each, call.model)
                if run_manager:
                    run_manager.on_llm_new_token(each.content, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = self._call(stop, kwargs)
        template = await self._connect().atemplate(self.chat_template)
        async with aclosing(self._connect().astream(*_ask(template, messages, call))) as chunks:
            async for each in chunks:
                chunk = chat_chunk(each, call.model)
                if run_manager:
                    await run_manager.on_llm_new_token(each.content, chunk=chunk)
                yield chunk

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._ls_params("chat", stop, kwargs)

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """The model's part of a cache key: whatever can change the answer, the call's own too."""
        given = split_options(kwargs)[0]
        if "extra_body" in given:
            given["extra_body"] = {**(self.extra_body or {}), **given["extra_body"]}
        options = {**self._identifying_params, **given, "stop": self._stops(stop)}
        named = {name: value for name, value in options.items() if name not in PLACEMENT}
        return f"{self._llm_type} {sorted(named.items())}"

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None]) -> dict[str, Any]:
        return combine_llm_outputs(llm_outputs)


def _ask(
    template: ChatTemplate, messages: Sequence[BaseMessage], call: CallOptions
) -> tuple[CallOptions, str]:
    """The call with the template's stop words, and the prompt."""
    conversation = read_messages(messages)
    prompt = template.render(conversation.messages)
    return call.stopping_at(template.stops).showing(conversation.image_data), prompt
