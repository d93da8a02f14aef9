"""Messages to prompt text through the model's own Jinja chat template.

In: a template, messages as dicts. Out: the prompt. Templates run in Jinja's immutable sandbox:
they reach no Python internals and change nothing they are given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from libertai_engine.errors import InvalidRequest

MAX_PROMPT_CHARS = 16 << 20

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML, the template of a model that brings none."""


_QUESTION = "question-8f2c"  # content that no template treats specially
_PROBE = ({"role": "user", "content": _QUESTION},)


class _GenerationBlock(Extension):
    """Reads `{% generation %}…{% endgeneration %}` as its contents.

    Templates use the block to mark what the assistant wrote, which matters in training only.
    """

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The nodes between the two tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    bos_token: str,
    eos_token: str,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The prompt that `template` makes of `messages`, at most `MAX_PROMPT_CHARS` long.

    Content is text; a template that reads parts only (models with eyes have such) gets it as one
    part. Raises `InvalidRequest` for whatever goes wrong: a template that does not parse or asks
    for what the sandbox forbids, one that refuses the messages (`raise_exception`), a longer text.
    """
    variables = {
        "messages": _in_parts(messages) if _reads_parts(template) else messages,
        "bos_token": bos_token,
        "eos_token": eos_token,
        "add_generation_prompt": add_generation_prompt,
        "tools": tools,
    }
    try:
        return _join(_compile(template), variables)
    except InvalidRequest:
        raise
    # NOTE: a template is a program over foreign data, so any exception may come out of it
    # (a missing key, adding None to a text, dividing by zero); all mean the same here.
    except Exception as error:
        message = f"the chat template cannot render these messages: {error}"
        raise InvalidRequest(message, field="messages") from error


def _join(template: Template, variables: dict[str, Any]) -> str:
    parts: list[str] = []
    room = MAX_PROMPT_CHARS
    for part in template.generate(variables):
        room -= len(part)
        if room < 0:
            raise InvalidRequest("the chat template makes too long a prompt", field="messages")
        parts.append(part)
    return "".join(parts)


@lru_cache(maxsize=8)
def _reads_parts(source: str) -> bool:
    """True if a template shows nothing of a plain text, but shows one given as a part."""
    return not _shows_text(source, _PROBE) and _shows_text(source, _in_parts(_PROBE))


def _shows_text(source: str, messages: Sequence[Mapping[str, Any]]) -> bool:
    names = ("bos_token", "eos_token", "add_generation_prompt", "tools")
    try:
        return _QUESTION in _join(_compile(source), {**dict.fromkeys(names), "messages": messages})
    except Exception:  # NOTE: as in `render`, any may come out of a template
        return False


def _in_parts(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with their texts as parts."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        for message in messages
    ]


@lru_cache(maxsize=8)
def _compile(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[LoopControlExtension, _GenerationBlock],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # NOTE: Jinja's own filter escapes <, >, & and ' for HTML; a prompt wants the plain text.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
