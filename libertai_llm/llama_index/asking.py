"""A chat becomes what the server is asked: options, prompt, and how to read the answer.

In: messages, the options of the call, a chat template. Out: a `Question`. Pure, the same for sync
and async.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llama_index.core.base.llms.types import ChatMessage

from libertai_llm.llama_index.messages import read_messages
from libertai_llm.options import CallOptions
from libertai_llm.prompt import ChatTemplate
from libertai_llm.tools import HERMES, Reasoning, ToolCallParser


@dataclass(frozen=True, slots=True)
class Question:
    """What the server is asked, and the parser of the one answer to it."""

    call: CallOptions
    prompt: str
    parser: ToolCallParser = field(
        default_factory=lambda: ToolCallParser(calls=False, reasoning="optional")
    )


def ask(messages: Sequence[ChatMessage], call: CallOptions, template: ChatTemplate) -> Question:
    """The question of a chat, with the template's stop words and the images of the messages."""
    conversation = read_messages(messages)
    prompt = template.render(conversation.messages)
    call = call.stopping_at(template.stops).showing(conversation.image_data)
    return Question(call, prompt, ToolCallParser(calls=False, reasoning=_reasoning(prompt)))


def _reasoning(prompt: str) -> Reasoning:
    """Some templates open the thoughts themselves; else the model may, if it likes."""
    return "begun" if prompt.rstrip().endswith(HERMES.reasoning_opening) else "optional"
