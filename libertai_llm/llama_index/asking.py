"""A chat becomes what the server is asked: options, prompt, and how to read the answer.

In: messages, the way to write them, the options of the call, what the answer has to be. Out: a
`Question`. Pure, the same for sync and async.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llama_index.core.base.llms.types import ChatMessage

from libertai_llm.answer_plan import AnswerPlan
from libertai_llm.llama_index.messages import read_messages
from libertai_llm.options import CallOptions
from libertai_llm.prompt import ChatTemplate
from libertai_llm.tools import Reasoning, ToolCallParser

Writing = ChatTemplate | Callable[[Sequence[ChatMessage]], str]
"""How messages become a prompt: a chat template, or a function of the user's."""


@dataclass(frozen=True, slots=True)
class Question:
    """What the server is asked, and how the one answer to it is to be read."""

    call: CallOptions
    prompt: str
    plan: AnswerPlan

    def parser(self) -> ToolCallParser:
        """The reader of the answer."""
        return self.plan.parser() or ToolCallParser(calls=False)


def ask(
    messages: Sequence[ChatMessage],
    writing: Writing,
    plan: AnswerPlan,
    call: CallOptions,
    reasoning: bool | None,
) -> Question:
    """The question of a chat: with the template's stop words, images, and the plan's grammar.

    `reasoning` says whether the answer may begin with thoughts; None: as the template has it.
    Raises `OptionError` or `ValueError`.
    """
    begins: Reasoning = "none"
    if isinstance(writing, ChatTemplate):
        conversation = read_messages(messages)
        prompt = writing.render(conversation.messages, plan.definitions)
        begins = writing.reasoning(prompt)
        call = call.stopping_at(writing.stops).showing(conversation.image_data)
    else:
        prompt = writing(messages)
    if reasoning is not None:
        begins = "none" if not reasoning else "begun" if begins == "begun" else "optional"
    plan, call = replace(plan, reasoning=begins).holding(call)
    return Question(call, prompt, plan)
