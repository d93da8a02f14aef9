"""Completions become LlamaIndex's responses, whole or chunk by chunk.

In: `Completion`s and `CompletionChunk`s of the client. Out: `ChatResponse`s and
`CompletionResponse`s. Pure, the same for sync and async.

NOTE: LlamaIndex prints a message's `additional_kwargs` into later prompts and stores them, so what
is told of an answer (tokens, slot, timings) is in `raw` and on the response, never on the message.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ContentBlock,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from libertai_llm.probs import TokenProb, TokenProbs
from libertai_llm.tools import (
    ArgumentsDelta,
    CallEnded,
    CallInvalid,
    CallStarted,
    ContentDelta,
    Event,
    ReasoningDelta,
    ToolCallParser,
)
from libertai_llm.types import Completion, CompletionChunk, StopType

# JSON knows no infinity; this is the OpenAI API's word for "impossible".
IMPOSSIBLE = -9999.0
_FINISH_REASONS: dict[StopType, str] = {"eos": "stop", "word": "stop", "limit": "length"}


class ChatReader:
    """One answer becoming `ChatResponse`s: `chunk` for each event of a stream, or `whole` once.

    Invariant: the deltas told so far, concatenated, are the text of the message told so far, and
    hold neither marks of calls nor thoughts. A call keeps its id and its place.
    """

    def __init__(self, parser: ToolCallParser) -> None:
        self._parser = parser
        self._text = ""
        self._thoughts = ""
        self._is_all_thought = False
        self._calls: dict[int, ToolCallBlock] = {}
        self._invalid: list[dict[str, Any]] = []
        self._logprobs: list[list[LogProb]] = []

    def whole(self, completion: Completion) -> ChatResponse:
        """A whole answer at once."""
        self._logprobs += logprobs_of(completion.probs)
        self._take(self._parser.feed(completion.content))
        self._finish(completion)
        return self._response(completion, completion.raw, None, "")

    def chunk(self, chunk: CompletionChunk) -> ChatResponse:
        """The answer so far, and what is new in it. The last one tells tokens and timings."""
        self._logprobs += logprobs_of(chunk.probs)
        text, thoughts = len(self._text), len(self._thoughts)
        self._take(self._parser.feed(chunk.content))
        if chunk.final is not None:
            self._finish(chunk.final)
        raw = _raw_of(chunk)
        return self._response(chunk.final, raw, self._text[text:], self._thoughts[thoughts:])

    def _finish(self, completion: Completion) -> None:
        self._take(self._parser.finish())
        if completion.stop_type == "eos" and not self._text and not self._calls:
            # The model was done when it had thought: what it thought is all the answer there is.
            self._text, self._is_all_thought = self._thoughts, True

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case ContentDelta(text):
                    self._text += text
                case ReasoningDelta(text):
                    self._thoughts += text
                case CallStarted(index, call_id, name):
                    self._calls[index] = ToolCallBlock(
                        tool_call_id=call_id, tool_name=name, tool_kwargs=""
                    )
                case ArgumentsDelta(index, text):
                    self._calls[index].tool_kwargs = f"{self._calls[index].tool_kwargs}{text}"
                case CallEnded(index):
                    block = self._calls[index]
                    block.tool_kwargs = json.loads(str(block.tool_kwargs))
                case CallInvalid(index=index):
                    self._calls.pop(index, None)
                    self._invalid.append(asdict(event))

    def _response(
        self, final: Completion | None, raw: Any, delta: str | None, thoughts: str
    ) -> ChatResponse:
        told = facts_of(final) if final else {}
        if thoughts:
            told["thinking_delta"] = thoughts
        if self._invalid:
            told["invalid_tool_calls"] = list(self._invalid)
        return ChatResponse(
            message=ChatMessage(role=MessageRole.ASSISTANT, blocks=self._blocks()),
            delta=delta,
            raw=raw_with_usage(raw, final),
            logprobs=self._logprobs or None,
            additional_kwargs=told,
        )

    def _blocks(self) -> list[ContentBlock]:
        blocks: list[ContentBlock] = []
        if self._thoughts and not self._is_all_thought:
            blocks.append(ThinkingBlock(content=self._thoughts))
        if self._text or not self._calls:
            blocks.append(TextBlock(text=self._text))
        # NOTE: copies, for the reader's own go on changing.
        return [*blocks, *(call.model_copy() for call in self._calls.values())]


class TextReader:
    """One completion becoming `CompletionResponse`s, as `ChatReader` does for chats.

    Invariant: the deltas told so far, concatenated, are the text told so far.
    """

    def __init__(self) -> None:
        self._text = ""
        self._logprobs: list[list[LogProb]] = []

    def whole(self, completion: Completion) -> CompletionResponse:
        """A whole completion at once."""
        self._text = completion.content
        self._logprobs += logprobs_of(completion.probs)
        return self._response(completion, completion.raw, None)

    def chunk(self, chunk: CompletionChunk) -> CompletionResponse:
        """The text so far, and what is new in it."""
        self._text += chunk.content
        self._logprobs += logprobs_of(chunk.probs)
        return self._response(chunk.final, _raw_of(chunk), chunk.content)

    def _response(
        self, final: Completion | None, raw: Any, delta: str | None
    ) -> CompletionResponse:
        return CompletionResponse(
            text=self._text,
            delta=delta,
            raw=raw_with_usage(raw, final),
            logprobs=self._logprobs or None,
            additional_kwargs=facts_of(final) if final else {},
        )


def facts_of(completion: Completion) -> dict[str, Any]:
    """What is told of an answer, in JSON's types: tokens, why it ended, slot and timings."""
    return {
        **_usage(completion),
        "cached_tokens": completion.tokens_cached,
        "finish_reason": _FINISH_REASONS.get(completion.stop_type),
        "stopping_word": completion.stopping_word,
        "truncated": completion.truncated,
        "slot_id": completion.slot_id,
        "model": completion.model,
        "timings": asdict(completion.timings),
        **({"tokens": list(completion.tokens)} if completion.tokens else {}),
    }


def raw_with_usage(raw: Any, final: Completion | None) -> dict[str, Any]:
    """The server's own object, with the token counts where LlamaIndex looks for them."""
    if final is None:
        return dict(raw)
    details = {"cached_tokens": final.tokens_cached}
    return {**raw, "usage": {**_usage(final), "prompt_tokens_details": details}}


def logprobs_of(probs: Sequence[TokenProbs]) -> list[list[LogProb]]:
    """For each token the likeliest ones at its place."""
    return [[_logprob(token) for token in each.top or (each.chosen,)] for each in probs]


def _usage(completion: Completion) -> dict[str, int]:
    prompt, answer = completion.tokens_evaluated, completion.tokens_predicted
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }


def _raw_of(chunk: CompletionChunk) -> Any:
    if chunk.final is not None:
        return chunk.final.raw
    return {"content": chunk.content, "slot_id": chunk.slot_id, "stop": False}


def _logprob(token: TokenProb) -> LogProb:
    logprob = IMPOSSIBLE if token.logprob is None else max(token.logprob, IMPOSSIBLE)
    return LogProb(token=token.token, logprob=logprob, bytes=list(token.piece))
