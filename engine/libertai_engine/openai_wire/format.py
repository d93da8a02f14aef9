"""Deltas to the objects of OpenAI's API: whole answers, and the chunks of a stream.

In: what the engine answers to an `OpenAICall`. Out: dicts. `ChatFormat` and `TextFormat` say what a
choice looks like on the two routes, `Reply` puts choices into their envelope.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from libertai_engine.openai_wire.parse import OpenAICall
from libertai_engine.sampling.sampler import SampledToken
from libertai_engine.sequence import Delta, Finish, FinishReason
from libertai_engine.text.detokenizer import Detokenizer
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.wire.format import Answer, token_text

JSON = dict[str, Any]
LOWEST_LOGPROB = -9999.0  # what OpenAI writes for a token that cannot be; JSON has no infinity


class ChoiceFormat(Protocol):
    """How one route writes the choices of one call. Keeps count of each choice's text."""

    id_prefix: str
    kind: str
    chunk_kind: str

    def whole(self, index: int, answer: Answer) -> JSON:
        """The finished choice, without index and reason."""
        ...

    def opening(self, index: int) -> JSON | None:
        """What a streamed choice begins with, if anything."""
        ...

    def piece(self, index: int, text: str, tokens: Sequence[SampledToken]) -> JSON:
        """What a streamed choice goes on with."""
        ...

    def ending(self) -> JSON:
        """What a streamed choice ends with."""
        ...


class ChatFormat:
    """Choices of `/v1/chat/completions`."""

    id_prefix = "chatcmpl"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, call: OpenAICall, tokenizer: Tokenizer) -> None:
        self._call = call
        self._tokenizer = tokenizer

    def whole(self, index: int, answer: Answer) -> JSON:
        """A message of the assistant."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        return {"message": message, "logprobs": self._logprobs(answer.tokens)}

    def opening(self, index: int) -> JSON | None:
        """Who speaks."""
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def piece(self, index: int, text: str, tokens: Sequence[SampledToken]) -> JSON:
        """More of the message."""
        return {"delta": {"content": text}, "logprobs": self._logprobs(tokens)}

    def ending(self) -> JSON:
        """Nothing more."""
        return {"delta": {}, "logprobs": None}

    def _logprobs(self, tokens: Sequence[SampledToken]) -> JSON | None:
        if not self._call.with_logprobs:
            return None
        return {"content": [self._token(token) for token in tokens], "refusal": None}

    def _token(self, token: SampledToken) -> JSON:
        assert token.logprobs is not None, "they were asked for"
        return {
            **self._entry(token.token_id, token.logprobs.chosen),
            "top_logprobs": [self._entry(*pair) for pair in token.logprobs.top],
        }

    def _entry(self, token_id: int, logprob: float) -> JSON:
        return {
            "token": token_text(token_id, self._tokenizer),
            "logprob": _finite(logprob),
            "bytes": list(self._tokenizer.token_bytes(token_id)),
        }


class TextFormat:
    """Choices of `/v1/completions`. With `echo` each begins with its prompt."""

    id_prefix = "cmpl"
    kind = chunk_kind = "text_completion"

    def __init__(self, call: OpenAICall, tokenizer: Tokenizer) -> None:
        self._call = call
        self._tokenizer = tokenizer
        # Where the next token of each choice begins in its text, in characters.
        self._offsets = [_TextOffset(tokenizer) for _ in call.requests]

    def whole(self, index: int, answer: Answer) -> JSON:
        """The text as a whole."""
        return self.piece(index, self._echo(index) + answer.text, answer.tokens)

    def opening(self, index: int) -> JSON | None:
        """The prompt, if it is to be repeated."""
        echo = self._echo(index)
        return self.piece(index, echo, ()) if echo else None

    def piece(self, index: int, text: str, tokens: Sequence[SampledToken]) -> JSON:
        """More of the text."""
        return {"text": text, "logprobs": self._logprobs(index, tokens)}

    def ending(self) -> JSON:
        """Nothing more."""
        return {"text": "", "logprobs": None}

    def _echo(self, index: int) -> str:
        return self._call.echoes[index // self._call.num_choices]

    def _logprobs(self, index: int, tokens: Sequence[SampledToken]) -> JSON | None:
        if not self._call.with_logprobs:
            return None
        return {
            "tokens": [token_text(token.token_id, self._tokenizer) for token in tokens],
            "token_logprobs": [_finite(_chosen(token)) for token in tokens],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": [self._offsets[index].advance(token.token_id) for token in tokens],
        }

    def _top(self, token: SampledToken) -> dict[str, float]:
        assert token.logprobs is not None, "they were asked for"
        texts: dict[str, float] = {}
        for token_id, logprob in token.logprobs.top:  # of equal texts the likeliest stays
            texts.setdefault(token_text(token_id, self._tokenizer), _finite(logprob))
        return texts


class _TextOffset:
    """Counts the characters of one text, token by token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer)
        self._length = 0

    def advance(self, token_id: int) -> int:
        """Where this token begins; a character that it only continues begins at its first byte."""
        piece = self._tokenizer.token_bytes(token_id)
        is_next = bool(piece) and not 0x80 <= piece[0] < 0xC0
        # A character that never becomes whole is one U+FFFD, written when the next one begins.
        begin = self._length + (is_next and self._detokenizer.pending)
        self._length += len(self._detokenizer.push(token_id))
        return begin


class Reply:
    """One answer on its way out: its id, its time, and the choices in their envelope.

    `chunks` are to be made in the order of the deltas; each choice is opened once.
    """

    def __init__(
        self, call: OpenAICall, choices: ChoiceFormat, *, model: str, fingerprint: str
    ) -> None:
        self._call = call
        self._choices = choices
        self._opened: set[int] = set()
        self._finishes: dict[int, Finish] = {}
        self._envelope = {
            "id": f"{choices.id_prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def whole(self, answers: Sequence[Answer]) -> JSON:
        """The object of an answer that is not streamed; `answers` in the order of their index."""
        self._finishes = {answer.index: answer.finish for answer in answers}
        choices = [
            {
                "index": answer.index,
                **self._choices.whole(answer.index, answer),
                "finish_reason": _reason(answer.finish),
            }
            for answer in answers
        ]
        head = {**self._envelope, "object": self._choices.kind}
        return {**head, "choices": choices, "usage": self._usage()}

    def chunks(self, delta: Delta) -> Iterator[JSON]:
        """The chunks that tell what a delta says."""
        index = delta.index
        if index not in self._opened:
            self._opened.add(index)
            opening = self._choices.opening(index)
            if opening is not None:
                yield self._chunk(index, opening)
        if delta.text or (delta.tokens and self._call.with_logprobs):
            yield self._chunk(index, self._choices.piece(index, delta.text, delta.tokens))
        if delta.finish is not None:
            self._finishes[index] = delta.finish
            yield self._chunk(index, self._choices.ending(), _reason(delta.finish))

    def last_chunks(self) -> Iterator[JSON]:
        """What follows the last delta: how many tokens it took, if that was asked for."""
        if self._call.with_usage:
            head = {**self._envelope, "object": self._choices.chunk_kind}
            yield {**head, "choices": [], "usage": self._usage()}

    def _chunk(self, index: int, choice: JSON, reason: str | None = None) -> JSON:
        choices = [{"index": index, **choice, "finish_reason": reason}]
        chunk = {**self._envelope, "object": self._choices.chunk_kind, "choices": choices}
        return {**chunk, "usage": None} if self._call.with_usage else chunk

    def _usage(self) -> JSON:
        """Each prompt counts once, however many answers it got."""
        firsts = range(0, len(self._call.requests), self._call.num_choices)
        prompts = [self._finishes[index] for index in firsts]
        num_prompt = sum(finish.num_prompt_tokens for finish in prompts)
        num_generated = sum(finish.num_generated for finish in self._finishes.values())
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_generated,
            "total_tokens": num_prompt + num_generated,
            "prompt_tokens_details": {"cached_tokens": sum(each.num_cached for each in prompts)},
        }


def _reason(finish: Finish) -> str:
    return "length" if finish.reason is FinishReason.LIMIT else "stop"


def _chosen(token: SampledToken) -> float:
    assert token.logprobs is not None, "they were asked for"
    return token.logprobs.chosen


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else LOWEST_LOGPROB
