"""Completions become LangChain's results: messages, generations and chunks with their metadata.

In: `Completion`s and `CompletionChunk`s of the client. Out: what `_generate` and `_stream` return.
Pure functions, the same for sync and async.

NOTE: LangChain adds up chunks key by key: numbers are summed, texts are joined, unequal floats and
booleans raise. So usage and metadata are on the final chunk only; only the provider is on each.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.tool import (
    invalid_tool_call as create_invalid_tool_call,
)
from langchain_core.messages.tool import (
    tool_call as create_tool_call,
)
from langchain_core.outputs import (
    ChatGeneration,
    ChatResult,
    Generation,
    GenerationChunk,
    LLMResult,
)

from libertai_llm.probs import TokenProb, TokenProbs
from libertai_llm.settings import PROVIDER
from libertai_llm.tools import ParsedAnswer
from libertai_llm.types import Completion, CompletionChunk, StopType, Timings

# JSON knows no infinity; this is the OpenAI API's word for "impossible".
IMPOSSIBLE = -9999.0
# Where LangChain looks for reasoning, to make a block of it.
REASONING = "reasoning_content"

_TIMINGS = tuple(each.name for each in fields(Timings))
_FINISH_REASONS: dict[StopType, str] = {"eos": "stop", "word": "stop", "limit": "length"}
_STOP_REASONS: dict[StopType, str] = {
    "eos": "end_turn",
    "word": "stop_sequence",
    "limit": "max_tokens",
}


def chat_result(
    completion: Completion, model: str, answer: ParsedAnswer | None = None
) -> ChatResult:
    """A whole answer as a message; `answer` is its text taken apart, None: it is all content.

    `model` is the name to report if the server tells none.
    A call whose arguments are no JSON object is in `invalid_tool_calls`, with what is wrong.
    """
    answer = answer or ParsedAnswer(content=completion.content)
    metadata = _metadata(completion, model) | _logprobs(completion.probs)
    message = AIMessage(
        content=answer.content,
        tool_calls=[
            create_tool_call(name=call.name, args=json.loads(call.arguments), id=call.id)
            for call in answer.tool_calls
        ],
        invalid_tool_calls=[
            create_invalid_tool_call(
                name=call.name,
                args=call.text if call.name is None else call.arguments,
                id=call.id,
                error=call.reason,
            )
            for call in answer.invalid_tool_calls
        ],
        additional_kwargs={REASONING: answer.reasoning} if answer.reasoning else {},
        usage_metadata=usage(completion),
        response_metadata=metadata | finish_of_calls(metadata, bool(answer.tool_calls)),
    )
    return ChatResult(
        generations=[ChatGeneration(message=message)], llm_output=_llm_output([completion], model)
    )


def finish_of_calls(metadata: dict[str, Any], has_calls: bool) -> dict[str, Any]:
    """What changes in the metadata if an answer has calls to make and was not cut."""
    if has_calls and metadata.get("finish_reason") == "stop":
        return {"finish_reason": "tool_calls", "stop_reason": "tool_use"}
    return {}


def llm_result(completions: Sequence[Completion], model: str) -> LLMResult:
    """Whole answers, one for each prompt."""
    generations = [
        Generation(
            text=completion.content,
            generation_info=_metadata(completion, model)
            | _logprobs(completion.probs)
            | {"usage_metadata": usage(completion)},
        )
        for completion in completions
    ]
    return LLMResult(
        generations=[[each] for each in generations], llm_output=_llm_output(completions, model)
    )


def llm_chunk(chunk: CompletionChunk, model: str) -> GenerationChunk:
    """One event of a stream as text; the final one carries usage and metadata."""
    info = chunk_metadata(chunk, model)
    if chunk.final:
        info["usage_metadata"] = usage(chunk.final)
    return GenerationChunk(text=chunk.content, generation_info=info)


def usage(completion: Completion) -> UsageMetadata:
    """Token counts: the whole prompt, how much of it the server reused, and the answer."""
    return UsageMetadata(
        input_tokens=completion.tokens_evaluated,
        output_tokens=completion.tokens_predicted,
        total_tokens=completion.tokens_evaluated + completion.tokens_predicted,
        input_token_details=InputTokenDetails(cache_read=completion.tokens_cached),
    )


def combine_llm_outputs(outputs: Iterable[dict[str, Any] | None]) -> dict[str, Any]:
    """The `llm_output`s of several answers as one: tokens are summed."""
    told = [output for output in outputs if output]
    if not told:
        return {}
    total: Counter[str] = Counter()
    for output in told:
        total.update(output["token_usage"])
    return {**told[-1], "token_usage": dict(total)}


def _llm_output(completions: Sequence[Completion], model: str) -> dict[str, Any]:
    prompt = sum(completion.tokens_evaluated for completion in completions)
    answer = sum(completion.tokens_predicted for completion in completions)
    return {
        "token_usage": {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
            "cached_tokens": sum(completion.tokens_cached for completion in completions),
        },
        "model_name": _model_name(completions[-1], model) if completions else model,
        "model_provider": PROVIDER,
    }


def _metadata(completion: Completion, model: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "model_name": _model_name(completion, model),
        "model_provider": PROVIDER,
        "slot_id": completion.slot_id,
        "truncated": completion.truncated,
        "timings": {name: getattr(completion.timings, name) for name in _TIMINGS},
    }
    if completion.stop_type in _FINISH_REASONS:
        metadata["finish_reason"] = _FINISH_REASONS[completion.stop_type]
        metadata["stop_reason"] = _STOP_REASONS[completion.stop_type]
    if completion.tokens:
        metadata["tokens"] = list(completion.tokens)
    if completion.stopping_word:
        metadata["stopping_word"] = completion.stopping_word
    return metadata


def chunk_metadata(chunk: CompletionChunk, model: str) -> dict[str, Any]:
    """What is told with an event of a stream: nearly everything comes with the final one."""
    metadata = _metadata(chunk.final, model) if chunk.final else {"model_provider": PROVIDER}
    return metadata | _logprobs(chunk.probs) if chunk.probs else metadata


def _model_name(completion: Completion, model: str) -> str:
    return completion.model or model or PROVIDER


def _logprobs(probs: Sequence[TokenProbs]) -> dict[str, Any]:
    """`{"logprobs": {"content": [...]}}` in the OpenAI API's shape, or nothing."""
    if not probs:
        return {}
    entries = [
        _logprob(each.chosen) | {"top_logprobs": [_logprob(top) for top in each.top]}
        for each in probs
    ]
    return {"logprobs": {"content": entries}}


def _logprob(token: TokenProb) -> dict[str, Any]:
    is_impossible = token.logprob is not None and math.isinf(token.logprob)
    logprob = IMPOSSIBLE if is_impossible else token.logprob
    return {"token": token.token, "logprob": logprob, "bytes": list(token.piece)}
