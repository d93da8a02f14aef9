"""`LibertaiLLM`: LangChain's text completion model over the llama-like API, remote or in-process.

In: prompts, sent as they are. Out: their completions, whole or streamed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseLLM, LangSmithParams, LanguageModelInput
from langchain_core.outputs import GenerationChunk, LLMResult
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ContextThreadPoolExecutor
from pydantic import ConfigDict, Field
from typing_extensions import Self

from libertai_llm.answer_plan import AnswerPlan
from libertai_llm.langchain.base import BaseLibertai
from libertai_llm.langchain.options import with_thread
from libertai_llm.langchain.output import llm_chunk, llm_result
from libertai_llm.langchain.structured import Method, structured_llm
from libertai_llm.options import PLACEMENT, CallOptions, merged_extra, split_options
from libertai_llm.types import Completion, CompletionChunk

MAX_THREADS = 32


class LibertaiLLM(BaseLibertai, BaseLLM):
    """A completion model behind `base_url`, or run in this process by `engine`.

    Neither given: `LIBERTAI_API_BASE` if it is set, else the bundled demo model. A conversation
    keeps its cookies and its slot, so that only what is new in a prompt is evaluated; name it with
    `config={"configurable": {"thread_id": "…"}}`, or let it be recognised by how it begins.

    Invariant: an option given at a call acts, is traced and is cached exactly as if the
    constructor had been given it. Errors are both `LibertaiError`s and LangChain's `ModelError`s.
    Example:

        llm = LibertaiLLM(base_url="http://127.0.0.1:8080", max_tokens=128)
        llm.invoke("Building a website can be done in 10 simple steps:")
    """

    model_config = ConfigDict(extra="forbid")

    rate_limiter: BaseRateLimiter | None = Field(default=None, exclude=True)
    """Asked before each prompt is sent."""

    @property
    def _llm_type(self) -> str:
        return "libertai-llm"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self._identity()

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> str:
        """Complete. Keyword arguments are options of this call only, such as `temperature=0`."""
        return super().invoke(input, config, stop=stop, **with_thread(config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> str:
        """`invoke` without blocking."""
        return await super().ainvoke(input, config, stop=stop, **with_thread(config, kwargs))

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[str]:
        """Complete in chunks as they come; closing the iterator stops the server."""
        return super().stream(input, config, stop=stop, **with_thread(config, kwargs))

    def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[str]:
        """`stream` without blocking."""
        return super().astream(input, config, stop=stop, **with_thread(config, kwargs))

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """All at once, each in its own conversation and with its own callbacks.

        NOTE: `BaseLLM` makes one call of a batch, which loses every config but the first.
        """
        return Runnable.batch(self, inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """`batch` without blocking."""
        return await Runnable.abatch(
            self, inputs, config, return_exceptions=return_exceptions, **kwargs
        )

    def generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Any = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Complete prompts, with everything that is known of the answers."""
        model, rest = self._with_options(kwargs)
        stops = model._stops(stop) or None
        return super(LibertaiLLM, model).generate(prompts, stops, callbacks, **rest)

    async def agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Any = None,
        **kwargs: Any,
    ) -> LLMResult:
        """`generate` without blocking."""
        model, rest = self._with_options(kwargs)
        stops = model._stops(stop) or None
        return await super(LibertaiLLM, model).agenerate(prompts, stops, callbacks, **rest)

    def with_structured_output(
        self,
        schema: Mapping[str, Any] | type | None = None,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """A chain whose completions are objects of `schema`, as `ChatLibertai` has it.

        "function_calling" completes with a call whose arguments are the object; "json_mode" needs
        no schema. The prompt is sent as it is: it should say what is wanted.
        """
        options = {"repeat_penalty": self.repeat_penalty, **kwargs}
        return structured_llm(self, schema, method=method, include_raw=include_raw, options=options)

    def _call(self, stop: Sequence[str] | None, given: Mapping[str, Any]) -> CallOptions:
        """What one call asks for; a `json_schema` as a grammar, which every server reads."""
        return AnswerPlan().holding(super()._call(stop, given))[1]

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        call = self._call(stop, kwargs)
        if len(prompts) == 1 and self._is_listened_to(run_manager):
            told = list(self._tell(call, prompts[0], run_manager))
            return llm_result([_final(told)], call.model)
        with ContextThreadPoolExecutor(max_workers=min(len(prompts), MAX_THREADS) or 1) as pool:
            completions = list(pool.map(lambda prompt: self._complete(call, prompt), prompts))
        return llm_result(completions, call.model)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        call = self._call(stop, kwargs)
        if len(prompts) == 1 and self._is_listened_to(run_manager):
            told = [each async for each in self._atell(call, prompts[0], run_manager)]
            return llm_result([_final(told)], call.model)
        tasks = [asyncio.ensure_future(self._acomplete(call, prompt)) for prompt in prompts]
        try:
            return llm_result(await asyncio.gather(*tasks), call.model)
        finally:
            for task in tasks:
                task.cancel()

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        with closing(self._tell(self._call(stop, kwargs), prompt, run_manager)) as told:
            for _, chunk in told:
                yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        async with aclosing(self._atell(self._call(stop, kwargs), prompt, run_manager)) as told:
            async for _, chunk in told:
                yield chunk

    def _complete(self, call: CallOptions, prompt: str) -> Completion:
        if self.rate_limiter:
            self.rate_limiter.acquire(blocking=True)
        return self._connect().complete(call, prompt)

    async def _acomplete(self, call: CallOptions, prompt: str) -> Completion:
        if self.rate_limiter:
            await self.rate_limiter.aacquire(blocking=True)
        return await self._connect().acomplete(call, prompt)

    def _tell(
        self, call: CallOptions, prompt: str, run_manager: CallbackManagerForLLMRun | None
    ) -> Generator[tuple[CompletionChunk, GenerationChunk], None, None]:
        """The answer as it comes, told to the callbacks."""
        if self.rate_limiter:
            self.rate_limiter.acquire(blocking=True)
        with closing(self._connect().stream(call, prompt)) as chunks:
            for each in chunks:
                chunk = llm_chunk(each, call.model)
                if run_manager:
                    run_manager.on_llm_new_token(each.content, chunk=chunk)
                yield each, chunk

    async def _atell(
        self, call: CallOptions, prompt: str, run_manager: AsyncCallbackManagerForLLMRun | None
    ) -> AsyncGenerator[tuple[CompletionChunk, GenerationChunk], None]:
        """`_tell` without blocking."""
        if self.rate_limiter:
            await self.rate_limiter.aacquire(blocking=True)
        async with aclosing(self._connect().astream(call, prompt)) as chunks:
            async for each in chunks:
                chunk = llm_chunk(each, call.model)
                if run_manager:
                    await run_manager.on_llm_new_token(each.content, chunk=chunk)
                yield each, chunk

    def _is_listened_to(
        self, run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None
    ) -> bool:
        """Whether somebody wants each token. `BaseLLM` has no such switch of its own."""
        if "streaming" in self.model_fields_set:
            return self.streaming
        return run_manager is not None and bool(run_manager.handlers)

    def _with_options(self, given: dict[str, Any]) -> tuple[Self, dict[str, Any]]:
        """A model that has a call's options as its own, and the arguments that remain.

        NOTE: `BaseLLM` leaves a call's options out of cache keys and traces, and reads the stop
        words of a cache key off the call alone.
        """
        own, rest = split_options(given)
        placement = {name: own.pop(name) for name in PLACEMENT & own.keys()}
        if not own:
            return self, given
        if "model" in own:
            own["model_name"] = own.pop("model")
        if "extra_body" in own:
            own["extra_body"] = merged_extra(self.extra_body, own["extra_body"])
        model = self.model_copy(update=own)
        vars(model).pop("_serialized", None)
        return model, rest | placement

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._ls_params("llm", stop, kwargs)


def _final(told: Sequence[tuple[CompletionChunk, GenerationChunk]]) -> Completion:
    completion = told[-1][0].final if told else None
    assert completion is not None, "the client's streams end with the whole answer"
    return completion
