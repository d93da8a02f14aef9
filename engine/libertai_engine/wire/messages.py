"""Chat messages to a prompt, as the model's own template writes it.

In: a decoded JSON object with `messages`. Out: a `ChatPrompt`, or an error naming the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libertai_engine.errors import InvalidRequest, NotSupported
from libertai_engine.text.chat_template import CHATML, render
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.wire.coerce import Body, to_bool, to_str, wrong

# `developer` is what OpenAI's newer models call the system; templates do not know it.
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
CHATML_STOP = "<|im_end|>"


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A rendered conversation.

    `text` is without the BOS that encoding puts in front. `stop` are words that end the
    assistant's turn where the model has no token for that.
    """

    text: str
    stop: tuple[str, ...] = ()


def parse_chat(body: Body, tokenizer: Tokenizer) -> ChatPrompt:
    """Check `messages` and write them out; the assistant is to speak next.

    `add_generation_prompt` false leaves its turn unopened. Raises `InvalidRequest` and
    `NotSupported` naming the field.
    """
    _refuse_unsupported(body)
    text = render(
        tokenizer.chat_template or CHATML,
        parse_messages(body.fields.get("messages")),
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        add_generation_prompt=body.get("add_generation_prompt", to_bool, True),
    )
    if tokenizer.adds_bos:
        text = text.removeprefix(tokenizer.bos_token)
    return ChatPrompt(text, () if tokenizer.chat_template else (CHATML_STOP,))


def _refuse_unsupported(body: Body) -> None:
    # NOTE: a template is a program; only the model's own is run, with what it is known to take.
    for name in ("chat_template", "chat_template_kwargs", "tools", "functions"):
        if body.fields.get(name):
            raise _unsupported(name)
    for name in ("tool_choice", "function_call"):
        if body.fields.get(name) not in (None, "none"):
            raise _unsupported(name)


def _unsupported(name: str) -> NotSupported:
    return NotSupported(f"`{name}` is not supported by this server", field=name)


def parse_messages(messages: Any) -> list[dict[str, str]]:
    """`[{"role", "content"}, …]` with text as content. Raises naming the message."""
    if messages is None:
        raise InvalidRequest("`messages` is required", field="messages")
    if not isinstance(messages, list) or not messages:
        raise wrong("messages", "a non-empty array of objects")
    return [_parse_message(f"messages[{index}]", each) for index, each in enumerate(messages)]


def _parse_message(name: str, message: Any) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise wrong(name, "an object with `role` and `content`")
    role = message.get("role")
    if role in ("tool", "function"):
        message = f"`{name}.role`: messages of tools are not supported by this server"
        raise NotSupported(message, field=f"{name}.role")
    if not isinstance(role, str) or role not in ROLES:
        raise wrong(f"{name}.role", f"one of {', '.join(ROLES)}")
    for unknown in ("tool_calls", "function_call"):
        if message.get(unknown):
            raise _unsupported(f"{name}.{unknown}")
    parsed = {"role": ROLES[role], "content": _parse_content(name, message.get("content"))}
    if message.get("name") is not None:
        parsed["name"] = to_str(f"{name}.name", message["name"])
    return parsed


def _parse_content(name: str, content: Any) -> str:
    """A text, or an array of parts of type text, which are joined."""
    name = f"{name}.content"
    if isinstance(content, str):
        return to_str(name, content)
    if not isinstance(content, list):
        raise wrong(name, "a string or an array of parts")
    return "".join(_parse_part(f"{name}[{index}]", part) for index, part in enumerate(content))


def _parse_part(name: str, part: Any) -> str:
    if not isinstance(part, Mapping):
        raise wrong(name, "an object with `type` and `text`")
    if part.get("type") not in ("text", "input_text"):
        raise wrong(f"{name}.type", "`text`: this model reads nothing else")
    return to_str(f"{name}.text", part.get("text"))
