"""`/infill` bodies to requests. Pure functions.

In: a decoded JSON object with `input_prefix`, `input_suffix`, `input_extra`, `prompt` and the
options of `/completion`. Out: a `CompletionCall`, or an error naming the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from libertai_engine.errors import NotSupported
from libertai_engine.text.fim import UNNAMED_FILE, File, Gap, encode_gap
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.wire.coerce import Body, to_int, to_str, wrong
from libertai_engine.wire.parse import CompletionCall, Limits, parse_completion

MAX_FILES = 256
ANSWER_SHARE = 4  # an answer without a limit gets one part in four of the context


def parse_infill(fields: Any, tokenizer: Tokenizer, limits: Limits) -> CompletionCall:
    """Check an `/infill` body; text that does not fit is left out, as `encode_gap` says.

    Every field is optional: `prompt` begins the filling, `input_extra` is an array of
    `{"filename", "text"}`. Control tokens are letters in all of them. Raises `NotSupported` if the
    model has no fill-in-the-middle tokens, `InvalidRequest` naming the field.
    """
    body = Body(fields)
    if tokenizer.fim is None:
        raise NotSupported("infill is not supported: the model has no fill-in-the-middle tokens")
    gap = Gap(
        prefix=body.get("input_prefix", to_str, ""),
        suffix=body.get("input_suffix", to_str, ""),
        start=body.get("prompt", to_str, ""),
        files=body.get("input_extra", _to_files, ()),
    )
    bos = tokenizer.encode("", add_special=True)
    room = _room(body.get("n_predict", to_int, -1), limits.context_size) - len(bos)
    token_ids, is_cut = encode_gap(gap, tokenizer.fim, tokenizer, room)
    # NOTE: a shifted context would have lost the tokens that say where the gap is.
    options = {**body.fields, "prompt": [*bos, *token_ids], "context_shift": False}
    # As on the server of 2023, the system prompt is for chats, not for code.
    options.pop("system_prompt", None)
    call = parse_completion(options, tokenizer, replace(limits, system_ids=()))
    (request,) = call.requests
    return replace(call, requests=(replace(request, is_cut=is_cut),), prompts=(gap.start,))


def _room(n_predict: int, context_size: int) -> int:
    """Tokens that the prompt may have: half of the context at least, and never all of it."""
    wanted = context_size // ANSWER_SHARE if n_predict < 0 else n_predict
    return context_size - max(1, min(wanted, context_size // 2))


def _to_files(name: str, value: Any) -> tuple[File, ...]:
    if not isinstance(value, list) or len(value) > MAX_FILES:
        raise wrong(name, f"an array of at most {MAX_FILES} objects")
    return tuple(_to_file(f"{name}[{index}]", each) for index, each in enumerate(value))


def _to_file(name: str, value: Any) -> File:
    if not isinstance(value, Mapping) or value.get("text") is None:
        raise wrong(name, "an object with `text` and perhaps `filename`")
    filename = value.get("filename")
    return File(
        name=UNNAMED_FILE if filename is None else to_str(f"{name}.filename", filename),
        text=to_str(f"{name}.text", value["text"]),
    )
