"""`Libertai`: LlamaIndex's model class over the llama-like API, remote or in-process.

In: messages or text. Out: answers, whole or streamed. The chat template of the model turns messages
into the prompt here, because the llama-like API takes prompts and not messages.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any

from llama_index.core.base.llms.generic_utils import messages_to_prompt as generic_prompt
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW, DEFAULT_NUM_OUTPUTS
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import LLM
from pydantic import field_serializer
from typing_extensions import Self

from libertai_llm.llama_index.answers import ChatReader, TextReader
from libertai_llm.llama_index.asking import Question, ask
from libertai_llm.options import CallOptions, make_call
from libertai_llm.prompt import ChatTemplate
from libertai_llm.settings import STRICT, ModelSettings

# What belongs to this process and is made anew in another.
_LOCAL = frozenset({"callback_manager", "rate_limiter"})


class Libertai(ModelSettings, LLM):
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

    model_config = STRICT

    chat_template: str | None = None
    """Jinja2 source, or "chatml". None: the server's own; ChatML if it tells none."""
    context_window: int | None = None
    """Tokens that fit the context. None: what the server told, once it was asked (`learn`)."""
    is_chat_model: bool = True
    """False: LlamaIndex sends texts instead of messages, without any chat template."""
    thread_id: str | None = None
    """The conversation of all calls; None: each is recognised by what was said."""

    @classmethod
    def class_name(cls) -> str:
        """The name under which the class is written down."""
        return "Libertai_llm"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex plans with. Asks nobody and never fails."""
        return LLMMetadata(
            context_window=self._window(),
            # No limit, whether unset or -1, is the server's business.
            num_output=max(self.max_tokens or 0, 0) or DEFAULT_NUM_OUTPUTS,
            is_chat_model=self.is_chat_model,
            model_name=self._reported_name(self._defaults()),
        )

    def to_payload(self) -> dict[str, Any]:
        """What traces tell of this model; no secrets."""
        told = {"model": self._reported_name(self._defaults()), "temperature": self.temperature}
        return {**super().to_payload(), **told}

    def learn(self) -> Self:
        """Ask the server for its context size and chat template now, or load the engine.

        Without it both are learnt at the first call, and until then `metadata` tells LlamaIndex's
        default of 3900 tokens, unless `context_window` is given.
        """
        self._connect().props()
        return self

    async def alearn(self) -> Self:
        """`learn` without blocking."""
        await self._connect().aprops()
        return self

    def with_session(self, thread_id: str) -> Self:
        """This model for one conversation, which has a slot of its own; shares all else."""
        return self.model_copy(update={"thread_id": thread_id})

    def tokenize(self, text: str) -> list[int]:
        """The model's own token ids of a text, without any that the server would add."""
        return self._connect().tokenize(text)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer. Keyword arguments are options of this call only, such as `temperature=0`."""
        question = self._ask(messages, kwargs, self._template())
        return ChatReader(question.parser).whole(
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
        return ChatReader(question.parser).whole(
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
        return TextReader().whole(self._connect().complete(self._call(kwargs), text))

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
        return TextReader().whole(await self._connect().acomplete(self._call(kwargs), text))

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """`stream_complete` without blocking."""
        return self._astream_complete(self._prompt(prompt, formatted), kwargs)

    def _stream_chat(
        self, messages: Sequence[ChatMessage], given: Mapping[str, Any]
    ) -> Generator[ChatResponse, None, None]:
        question = self._ask(messages, given, self._template())
        reader = ChatReader(question.parser)
        with closing(self._connect().stream(question.call, question.prompt)) as chunks:
            for chunk in chunks:
                yield reader.chunk(chunk)

    async def _astream_chat(
        self, messages: Sequence[ChatMessage], given: Mapping[str, Any]
    ) -> AsyncGenerator[ChatResponse, None]:
        question = self._ask(messages, given, await self._atemplate())
        reader = ChatReader(question.parser)
        async with aclosing(self._connect().astream(question.call, question.prompt)) as chunks:
            async for chunk in chunks:
                yield reader.chunk(chunk)

    def _stream_complete(
        self, prompt: str, given: Mapping[str, Any]
    ) -> Generator[CompletionResponse, None, None]:
        reader = TextReader()
        with closing(self._connect().stream(self._call(given), prompt)) as chunks:
            for chunk in chunks:
                yield reader.chunk(chunk)

    async def _astream_complete(
        self, prompt: str, given: Mapping[str, Any]
    ) -> AsyncGenerator[CompletionResponse, None]:
        reader = TextReader()
        async with aclosing(self._connect().astream(self._call(given), prompt)) as chunks:
            async for chunk in chunks:
                yield reader.chunk(chunk)

    def _call(self, given: Mapping[str, Any]) -> CallOptions:
        """What one call asks for. Raises `UnknownOption` naming an option that is none."""
        return make_call(self._defaults(), self._stops(given.get("stop")), given, self.thread_id)

    def _template(self) -> ChatTemplate | None:
        """How messages become a prompt; None if the user has a function for it."""
        if self.messages_to_prompt is generic_prompt:
            return self._connect().template(self.chat_template)
        return None

    async def _atemplate(self) -> ChatTemplate | None:
        if self.messages_to_prompt is generic_prompt:
            return await self._connect().atemplate(self.chat_template)
        return None

    def _ask(
        self,
        messages: Sequence[ChatMessage],
        given: Mapping[str, Any],
        template: ChatTemplate | None,
    ) -> Question:
        if template is None:
            assert self.messages_to_prompt is not None
            return Question(self._call(given), self.messages_to_prompt(messages))
        return ask(messages, self._call(given), template)

    def _prompt(self, prompt: str, formatted: bool) -> str:
        if formatted or self.completion_to_prompt is None:
            return prompt
        return self.completion_to_prompt(prompt)

    def _window(self) -> int:
        told = (
            self.context_window,
            getattr(self.engine, "context_size", None),
            self._connect().known_context_size,
        )
        return next((size for size in told if size), DEFAULT_CONTEXT_WINDOW)

    @field_serializer("engine")
    def _name_engine(self, engine: Any) -> str | None:
        """A running engine is written down by its name."""
        return None if engine is None else str(getattr(engine, "name", engine))

    @field_serializer("logit_bias")
    def _list_biases(self, bias: Any) -> Any:
        """JSON has no numbers as keys: token ids would come back as texts."""
        return [list(pair) for pair in bias.items()] if isinstance(bias, Mapping) else bias

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        kept = {name: value for name, value in state["__dict__"].items() if name not in _LOCAL}
        return {**state, "__dict__": kept}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        known = type(self).model_fields
        local = {name: known[name].get_default(call_default_factory=True) for name in _LOCAL}
        super().__setstate__({**state, "__dict__": {**state["__dict__"], **local}})
