"""Calls that do not block, attempt by attempt. The twin of `drive_sync`, but for `await`.

In: `Call`s. Out: what was answered, as completions, chunks or plain JSON. What follows a failure
is `call`'s rule, how a call travels is the transport's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from libertai_llm.assembly import Assembler
from libertai_llm.call import Call
from libertai_llm.embeddings import Vector, read_vectors
from libertai_llm.errors import LibertaiError
from libertai_llm.several import read_several
from libertai_llm.transport import AsyncTransport, Reply
from libertai_llm.types import Completion, CompletionChunk


class AsyncDriver:
    """Carries calls out, in any number of event loops; every method raises `LibertaiError`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def reply(self, call: Call) -> Reply:
        """The answer as it came."""
        with call:
            return await self._persist(call)

    async def whole(self, call: Call) -> Completion:
        """A completion."""
        with call:
            completion = Completion.from_wire(await self._persist(call))
            call.succeed(completion)
        return completion

    async def several(self, call: Call, prompts: Sequence[str]) -> list[Completion]:
        """A completion for each prompt."""
        with call:
            completions = read_several(await self._persist(call), prompts)
            for each in completions:
                call.succeed(each)
        return completions

    async def vectors(self, call: Call, count: int) -> list[Vector]:
        """An embedding of each of the call's texts."""
        with call:
            while True:
                try:
                    return read_vectors(await self.once(call), count)
                except LibertaiError as error:
                    await _pause(call.pause_after(error))

    async def chunks(self, call: Call) -> AsyncGenerator[CompletionChunk, None]:
        """A completion in chunks."""
        with call:
            while True:
                assembler = Assembler(keeps_tokens=call.wants_tokens)
                try:
                    async with aclosing(self._stream_once(call, assembler)) as chunks:
                        async for chunk in chunks:
                            yield chunk
                    break
                except LibertaiError as error:
                    error.partial_text = assembler.text
                    await _pause(call.pause_after(error))

    async def once(self, call: Call) -> Reply:
        """One attempt, whatever comes."""
        return await self._transport.request(
            call.method,
            call.path,
            call.body if call.method == "POST" else None,
            session=call.session,
            timeouts=call.timeouts,
        )

    async def _persist(self, call: Call) -> Reply:
        while True:
            try:
                return await self.once(call)
            except LibertaiError as error:
                await _pause(call.pause_after(error))

    async def _stream_once(
        self, call: Call, assembler: Assembler
    ) -> AsyncGenerator[CompletionChunk, None]:
        items = self._transport.stream(
            call.path, call.body, session=call.session, timeouts=call.timeouts
        )
        async with aclosing(items):
            async for item in items:
                chunk = assembler.push(item)
                call.take(chunk)
                yield chunk
        if (last := assembler.end()) is not None:
            call.take(last)
            yield last


async def _pause(seconds: float) -> None:
    # Importing asyncio costs a blocking program time; whoever awaits has it already.
    import asyncio

    await asyncio.sleep(seconds)
