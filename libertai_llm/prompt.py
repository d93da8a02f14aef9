"""Chat messages become one prompt text, and the template says which words end a turn.

In: a chat template (jinja2 source, or None for ChatML) and messages as plain dicts.
Out: the prompt for `/completion`, and the stop words that go with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from libertai_llm.errors import LibertaiError
from libertai_llm.tools.definitions import HERMES, Reasoning
from libertai_llm.tools.hermes import with_calls_as_text, with_tools_told

if TYPE_CHECKING:
    from jinja2 import Template

Message = Mapping[str, Any]

CHATML = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{{ message['content'] }}
{%- for call in message['tool_calls'] or [] %}
{{- '\\n' if message['content'] or not loop.first }}<tool_call>
{{ call['function'] | tojson }}
</tool_call>
{%- endfor -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
"""What a server that tells nothing gets: ChatML, with earlier tool calls in Hermes form."""

# Content that no template treats specially; the probes are found again in the rendered text.
_QUESTION, _ANSWER, _REPLY = "question-8f2c", "answer-51d7", "reply-c3a9"
_PROBE: tuple[Message, ...] = (
    {"role": "user", "content": _QUESTION},
    {"role": "assistant", "content": _ANSWER},
    {"role": "user", "content": _REPLY},
)
_MARKER = re.compile(r"\s*(<[^<>\s]+>|\[/?[A-Z_]+\])")


class ChatTemplateError(LibertaiError, ValueError):
    """The chat template cannot be parsed, or refuses these messages. Says why."""


@dataclass(frozen=True)
class ChatTemplate:
    """One model's way to write a conversation. Never changes, and renders deterministically.

    `source` is jinja2 text as models ship it (None: ChatML); `bos_token` and `eos_token` are the
    texts that it may refer to. Rendering runs in jinja2's immutable sandbox.
    """

    source: str | None = None
    bos_token: str | None = None
    eos_token: str | None = None

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt text, without the leading BOS text, because the server adds that token.

        Content is text; a template that reads parts only (models with eyes have such) gets it as
        one part. Tools, calls and their results that the template does not read become text, as
        Hermes models read them. Raises `ChatTemplateError` if the template is broken or refuses the
        messages.
        """
        if not self._mentions("tool_calls"):
            messages = with_calls_as_text(messages)
        if tools and not self._mentions("tools"):
            messages, tools = with_tools_told(messages, tools), None
        shaped = _in_parts(messages) if self._reads_parts else messages
        text = self._render(shaped, tools, add_generation_prompt)
        return text.removeprefix(self.bos_token) if self.bos_token else text

    @cached_property
    def stops(self) -> list[str]:
        """The words that end the assistant's turn, such as `<|im_end|>`.

        Found by rendering a conversation and reading what the template puts between an answer
        and the next question, so no model is special-cased. Empty if nothing can be read there.
        """
        try:
            text = self.render(_PROBE, add_generation_prompt=False)
        except ChatTemplateError:
            return []
        _, _, after = text.partition(_ANSWER)
        between, _, _ = after.partition(_REPLY)
        marker = _MARKER.match(between)
        word = marker.group(1) if marker else between.rstrip()
        return [word] if word.strip() else []

    def reasoning(self, prompt: str) -> Reasoning:
        """Whether the answer to a rendered prompt may begin with reasoning, or has begun with it.

        Read off the template: those of models that think show what is done with their thoughts.
        """
        # NOTE: a prompt may be long, and only its end matters.
        if prompt[-64:].rstrip().endswith(HERMES.reasoning_opening):
            return "begun"
        return "optional" if self._mentions(HERMES.reasoning_closing) else "none"

    def _mentions(self, word: str) -> bool:
        return word in self._source

    @property
    def _source(self) -> str:
        return CHATML if self.source is None else self.source

    @cached_property
    def _reads_parts(self) -> bool:
        """True if the template shows nothing of a plain text, but shows one given as a part."""
        return not self._shows_text(_PROBE) and self._shows_text(_in_parts(_PROBE))

    def _shows_text(self, messages: Sequence[Message]) -> bool:
        try:
            return _QUESTION in self._render(messages, None, False)
        except ChatTemplateError:
            return False

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
    ) -> str:
        variables = {
            "messages": [dict(message) for message in messages],
            "tools": list(tools) if tools else None,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos_token or "",
            "eos_token": self.eos_token or "",
        }
        try:
            return self._compiled.render(variables)
        # NOTE: a template is a program over foreign data, so any exception may come out of it.
        except Exception as error:
            raise ChatTemplateError(f"the chat template failed: {error}") from error

    @cached_property
    def _compiled(self) -> Template:
        from libertai_llm.sandbox import compile_template

        return compile_template(self._source)


def _in_parts(messages: Sequence[Message]) -> list[Message]:
    """The messages with their texts as parts."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        for message in messages
    ]


def merge_stops(*lists: Iterable[str] | str | None) -> list[str]:
    """All the stop words in order of first mention; empty ones would stop at once and are left out.

    A single string counts as one word.
    """
    # NOTE: what is no list at all stays one word, so that the check of options can name `stop`.
    listed = (
        [stops] if isinstance(stops, str) or not isinstance(stops, Iterable | None) else stops or ()
        for stops in lists
    )
    return list(dict.fromkeys(word for words in listed for word in words if word))
