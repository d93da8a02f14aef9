"""Blocking calls, attempt by attempt, until an answer is there or no attempt may follow.

In: `Call`s. Out: what was answered, as completions, chunks or plain JSON. What follows a failure
is `call`'s rule, how a call travels is the transport's.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing

from libertai_llm.assembly import Assembler
from libertai_llm.call import Call
from libertai_llm.embeddings import Vector, read_vectors
from libertai_llm.errors import LibertaiError
from libertai_llm.several import read_several
from libertai_llm.transport import Reply, Transport
from libertai_llm.types import Completion, CompletionChunk


class Driver:
    """Carries calls out. Safe from many threads; every method raises `LibertaiError`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def reply(self, call: Call) -> Reply:
        """The answer as it came."""
        with call:
            return self._persist(call)

    def whole(self, call: Call) -> Completion:
        """A completion."""
        with call:
            completion = Completion.from_wire(self._persist(call))
            call.succeed(completion)
        return completion

    def several(self, call: Call, prompts: Sequence[str]) -> list[Completion]:
        """A completion for each prompt."""
        with call:
            completions = read_several(self._persist(call), prompts)
            for each in completions:
                call.succeed(each)
        return completions

    def vectors(self, call: Call, count: int) -> list[Vector]:
        """An embedding of each of the call's texts."""
        with call:
            while True:
                try:
                    return read_vectors(self.once(call), count)
                except LibertaiError as error:
                    time.sleep(call.pause_after(error))

    def chunks(self, call: Call) -> Generator[CompletionChunk, None, None]:
        """A completion in chunks."""
        with call:
            while True:
                assembler = Assembler(keeps_tokens=call.wants_tokens)
                try:
                    yield from self._stream_once(call, assembler)
                    break
                except LibertaiError as error:
                    error.partial_text = assembler.text
                    time.sleep(call.pause_after(error))

    def once(self, call: Call) -> Reply:
        """One attempt, whatever comes."""
        return self._transport.request(
            call.method,
            call.path,
            call.body if call.method == "POST" else None,
            session=call.session,
            timeouts=call.timeouts,
        )

    def _persist(self, call: Call) -> Reply:
        while True:
            try:
                return self.once(call)
            except LibertaiError as error:
                time.sleep(call.pause_after(error))

    def _stream_once(
        self, call: Call, assembler: Assembler
    ) -> Generator[CompletionChunk, None, None]:
        items = self._transport.stream(
            call.path, call.body, session=call.session, timeouts=call.timeouts
        )
        with closing(items):
            for item in items:
                chunk = assembler.push(item)
                call.take(chunk)
                yield chunk
        if (last := assembler.end()) is not None:
            call.take(last)
            yield last
