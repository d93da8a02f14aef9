"""The `system_prompt` field: a beginning that all prompts of the llama-like route share.

In: the JSON object `{prompt, anti_prompt, assistant_name}`. Out: a `SystemPrompt`, tokens included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libertai_engine.errors import InvalidRequest
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.wire.coerce import Body, to_str, wrong
from libertai_engine.wire.prompts import MIN_FREE


@dataclass(frozen=True, slots=True)
class SystemPrompt:
    """What stands before every prompt, BOS included; the two names are for `/props` only."""

    token_ids: tuple[int, ...] = ()
    assistant_name: str = ""
    user_name: str = ""


def parse_system_prompt(value: Any, tokenizer: Tokenizer, context_size: int) -> SystemPrompt:
    """Check the object; an empty `prompt` takes the system prompt away.

    Control tokens in it are letters, as on the server of 2023. Raises `InvalidRequest` naming the
    field, also if half of the context would not be left for the prompts themselves.
    """
    if not isinstance(value, Mapping):
        raise wrong("system_prompt", "an object")
    fields = Body(value)
    text = fields.get("prompt", to_str, "")
    token_ids = tokenizer.encode(text, add_special=True, parse_special=False) if text else []
    if 2 * len(token_ids) > context_size - MIN_FREE:
        raise InvalidRequest(
            f"`system_prompt` has {len(token_ids)} tokens, more than half of the context "
            f"({context_size} tokens)",
            field="system_prompt",
        )
    return SystemPrompt(
        token_ids=tuple(token_ids),
        assistant_name=fields.get("assistant_name", to_str, ""),
        user_name=fields.get("anti_prompt", to_str, ""),
    )
