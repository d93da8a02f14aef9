"""A stream's objects put together: chunks for the reader, the whole answer at the end. No I/O.

In: the JSON objects of one stream, in order. Out: `CompletionChunk`s; errors know the text so far.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from libertai_llm.errors import IncompleteStream
from libertai_llm.probs import TokenProbs, read_probs
from libertai_llm.replies import stream_error
from libertai_llm.types import Completion, CompletionChunk, content_of, ids_of, slot_of


class Assembler:
    """Collects one streamed answer.

    Invariant: `text` is the concatenation of the chunks' contents; `final` is set by the last one.
    Unless it `keeps_tokens` the ids are dropped: today's llama-server sends them unasked.
    """

    def __init__(self, *, keeps_tokens: bool = False) -> None:
        self.final: Completion | None = None
        self._texts: list[str] = []
        self._probs: list[TokenProbs] = []
        self._tokens: list[int] = []
        self._keeps_tokens = keeps_tokens
        self._slot_id = -1

    @property
    def text(self) -> str:
        """What has arrived."""
        return "".join(self._texts)

    def push(self, item: dict[str, Any]) -> CompletionChunk:
        """The next chunk. Raises the `APIError` that an error object stands for."""
        if item.get("error"):
            raise stream_error(item)
        content = content_of(item)
        self._texts.append(content)
        probs = self._new_probs(item)
        tokens = ids_of(item) if self._keeps_tokens else ()
        self._tokens.extend(tokens)
        slot = slot_of(item)
        self._slot_id = slot if slot >= 0 else self._slot_id
        if item.get("stop") is True:
            final = Completion.from_wire(
                item, content=self.text, probs=tuple(self._probs), tokens=tuple(self._tokens)
            )
            self.final = replace(final, slot_id=self._slot_id)
        return CompletionChunk(
            content=content, slot_id=self._slot_id, probs=probs, tokens=tokens, final=self.final
        )

    def end(self) -> CompletionChunk | None:
        """The stream is over. Raises `IncompleteStream` if nothing announced its end.

        A `[DONE]` without a last object (some gateways) still ends the answer: then this is its
        last chunk, with all that is known.
        """
        if self.final is not None:
            return None
        if not self._texts:
            raise IncompleteStream("the stream ended before the answer did")
        self.final = Completion(
            content=self.text,
            slot_id=self._slot_id,
            probs=tuple(self._probs),
            tokens=tuple(self._tokens),
        )
        return CompletionChunk(content="", slot_id=self._slot_id, final=self.final)

    def _new_probs(self, item: dict[str, Any]) -> tuple[TokenProbs, ...]:
        """The entries that are new.

        NOTE: the last event of a server of 2023 repeats all entries, ours holds the new ones only.
        """
        probs = read_probs(item)
        known = len(self._probs)
        if item.get("stop") is True and known and list(probs[:known]) == self._probs:
            probs = probs[known:]
        self._probs.extend(probs)
        return probs
