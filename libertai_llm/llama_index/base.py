"""What `Libertai` is, beside what it answers: fields, metadata, where calls go, how it is pickled.

In: constructor arguments. Out: what LlamaIndex wants to know of a model, and what each call asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.generic_utils import messages_to_prompt as generic_prompt
from llama_index.core.base.llms.types import ChatMessage, LLMMetadata
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW, DEFAULT_NUM_OUTPUTS
from llama_index.core.llms.function_calling import FunctionCallingLLM
from pydantic import field_serializer
from typing_extensions import Self

from libertai_llm.answer_plan import PLAN_OPTIONS, AnswerPlan
from libertai_llm.llama_index.asking import Question, ask
from libertai_llm.options import CallOptions, make_call
from libertai_llm.prompt import ChatTemplate
from libertai_llm.settings import STRICT, ModelSettings

# What belongs to this process and is made anew in another.
_LOCAL = frozenset({"callback_manager", "rate_limiter"})


class BaseLibertai(ModelSettings, FunctionCallingLLM):
    """The settings of a model, as LlamaIndex wants them.

    Invariant: that of `ModelSettings`; `metadata` asks nobody and never fails.
    """

    model_config = STRICT

    chat_template: str | None = None
    """Jinja2 source, or "chatml". None: the server's own; ChatML if it tells none."""
    context_window: int | None = None
    """Tokens that fit the context. None: what the server told, once it was asked (`learn`)."""
    is_chat_model: bool = True
    """False: LlamaIndex sends texts instead of messages, without any chat template."""
    is_function_calling_model: bool = True
    """False: agents and structured output do without tool calls."""
    reasoning: bool | None = None
    """Whether answers begin with thoughts, which are kept apart, in a `ThinkingBlock`. None: if the
    template shows that the model thinks."""
    thread_id: str | None = None
    """The conversation of all calls; None: each is recognised by what was said."""

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex plans with."""
        return LLMMetadata(
            context_window=self._window(),
            # No limit, whether unset or -1, is the server's business.
            num_output=max(self.max_tokens or 0, 0) or DEFAULT_NUM_OUTPUTS,
            is_chat_model=self.is_chat_model,
            is_function_calling_model=self.is_function_calling_model,
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

    def _call(self, given: Mapping[str, Any]) -> CallOptions:
        """What one call asks for. Raises `UnknownOption` naming an option that is none."""
        return make_call(self._defaults(), self._stops(given.get("stop")), given, self.thread_id)

    def _text_call(self, given: Mapping[str, Any]) -> CallOptions:
        """`_call` for plain texts; a `json_schema` as a grammar, which every server reads."""
        return AnswerPlan().holding(self._call(given))[1]

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
        """What is asked of the server. Raises `OptionError` or `ValueError`."""
        plan = AnswerPlan.of(given)
        rest = {name: value for name, value in given.items() if name not in PLAN_OPTIONS}
        reasoning = rest.pop("reasoning", None)
        reasoning = self.reasoning if reasoning is None else reasoning
        writes = template or self.messages_to_prompt
        assert writes is not None
        return ask(messages, writes, plan, self._call(rest), reasoning)

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
