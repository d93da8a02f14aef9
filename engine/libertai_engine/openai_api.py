"""OpenAI's API over an engine: dicts in, dicts out, no bytes. A sibling of `api`.

In: the JSON body of a `/v1` route. Out: the JSON object of its answer, or a stream of them, for
programs that speak nothing else. Our own classes use `CompletionAPI`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import closing
from importlib.metadata import version
from typing import Any

from libertai_engine.embeddings import Embedder
from libertai_engine.engine import Engine
from libertai_engine.errors import ContextOverflow, InvalidRequest, NotFound, NotSupported
from libertai_engine.openai_wire.format import JSON, ChatFormat, ChoiceFormat, Reply, TextFormat
from libertai_engine.openai_wire.parse import OpenAICall, parse_chat_body, parse_text_body
from libertai_engine.sequence import Delta
from libertai_engine.stream import Stream
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.wire.coerce import Body, to_bool
from libertai_engine.wire.embeddings import format_openai, parse_embedding
from libertai_engine.wire.format import Answer
from libertai_engine.wire.parse import Limits

Parse = Callable[[Any, Tokenizer, Limits], OpenAICall]
LIMIT = "n_predict"  # what the engine calls the limit of an answer when it refuses one
MakeFormat = Callable[[OpenAICall, Tokenizer], ChoiceFormat]


class OpenAIAPI:
    """The `/v1` routes as methods. Safe from many threads and event loops at once.

    Every method raises `EngineError`, streams also after they have begun. Leaving a stream or
    cancelling a call frees its slots. A prompt that does not fit is refused, never cut.
    """

    def __init__(self, engine: Engine | None, *, embedder: Embedder | None = None) -> None:
        self._chat_engine = engine
        self._embedder = embedder
        self._created = int(time.time())

    @property
    def engine(self) -> Engine:
        """What generates. Raises `NotSupported` if there is an embedding model only."""
        if self._chat_engine is None:
            raise NotSupported("this server only embeds: it was started with `--embedding`")
        return self._chat_engine

    def wants_stream(self, body: Any) -> bool:
        """Whether a body asks to be answered by a stream."""
        wish: bool = Body(body).get("stream", to_bool, False)
        return wish

    def models(self) -> JSON:
        """`GET /v1/models`: the models there are."""
        return {"object": "list", "data": self._models()}

    def model(self, name: str) -> JSON:
        """`GET /v1/models/{name}`. Raises `NotFound`."""
        for each in self._models():
            if each["id"] == name:
                return each
        raise NotFound(f"the model {name[:100]!r} does not exist")

    async def embeddings(self, body: Any) -> JSON:
        """`POST /v1/embeddings`."""
        embedder = self._embedder
        if embedder is None:
            raise NotSupported("this server has no embedding model: see `--embedding-model`")
        call = await asyncio.to_thread(parse_embedding, body, embedder, ("input",))
        vectors = call.finish(await embedder.aembed(call.rows))
        return await asyncio.to_thread(format_openai, vectors, call, model=embedder.name)

    async def chat(self, body: Any) -> JSON:
        """`POST /v1/chat/completions` without `stream`."""
        return await self._whole(body, parse_chat_body, ChatFormat)

    def chat_stream(self, body: Any) -> AsyncGenerator[JSON, None]:
        """`POST /v1/chat/completions` with `stream`."""
        return self._stream(body, parse_chat_body, ChatFormat)

    async def text(self, body: Any) -> JSON:
        """`POST /v1/completions` without `stream`."""
        return await self._whole(body, parse_text_body, TextFormat)

    def text_stream(self, body: Any) -> AsyncGenerator[JSON, None]:
        """`POST /v1/completions` with `stream`."""
        return self._stream(body, parse_text_body, TextFormat)

    async def _whole(self, body: Any, parse: Parse, make_format: MakeFormat) -> JSON:
        call = await self._parse(body, parse)
        with closing(self._submit(call)) as stream:
            deltas = [delta async for delta in stream]
        reply, answers = self._reply(call, make_format), _answers(deltas, len(call.requests))
        if not call.with_logprobs:
            return reply.whole(answers)
        return await asyncio.to_thread(reply.whole, answers)  # they are many, and take their time

    async def _stream(
        self, body: Any, parse: Parse, make_format: MakeFormat
    ) -> AsyncGenerator[JSON, None]:
        call = await self._parse(body, parse)
        reply = self._reply(call, make_format)
        with closing(self._submit(call)) as stream:
            async for delta in stream:
                for chunk in reply.chunks(delta):
                    yield chunk
        for chunk in reply.last_chunks():
            yield chunk

    async def _parse(self, body: Any, parse: Parse) -> OpenAICall:
        engine = self.engine
        limits = Limits(
            num_slots=engine.num_slots,
            context_size=engine.context_size,
            grammars=engine.grammars,
        )
        try:
            return await asyncio.to_thread(parse, body, engine.tokenizer, limits)
        except NotSupported as error:
            # OpenAI's clients repeat what a 501 refuses, and call it the server's fault.
            raise InvalidRequest(str(error), field=error.field) from error

    def _submit(self, call: OpenAICall) -> Stream:
        try:
            return self.engine.submit(*call.requests)
        except ContextOverflow as error:
            error.field = call.field
            raise
        except InvalidRequest as error:
            if error.field != LIMIT:
                raise
            message = str(error).replace(f"`{LIMIT}`", f"`{call.limit_name}`")
            raise InvalidRequest(message, field=call.limit_name) from None

    def _reply(self, call: OpenAICall, make_format: MakeFormat) -> Reply:
        return Reply(
            call,
            make_format(call, self.engine.tokenizer),
            model=self.engine.name,
            fingerprint=f"libertai-engine {version('libertai-llm')}",
        )

    def _models(self) -> list[JSON]:
        found = []
        if self._chat_engine is not None:
            found.append(self._card(self._chat_engine.name, _chat_facts(self._chat_engine)))
        if self._embedder is not None:
            found.append(self._card(self._embedder.name, _embedder_facts(self._embedder)))
        return found

    def _card(self, name: str, facts: dict[str, int]) -> JSON:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "llamacpp",  # programs look for it to know which extras they may send
            "meta": facts,
        }


def _chat_facts(engine: Engine) -> dict[str, int]:
    facts = {"n_vocab": engine.tokenizer.vocab_size, "n_ctx": engine.context_size}
    loaded = engine.model
    if loaded is not None:
        facts["n_ctx_train"] = loaded.train_context
        facts["n_params"] = loaded.num_parameters
        facts["size"] = loaded.size_bytes
    return facts


def _embedder_facts(embedder: Embedder) -> dict[str, int]:
    return {
        "n_vocab": embedder.model.vocab_size,
        "n_ctx": embedder.max_tokens,
        "n_embd": embedder.num_dimensions,
        "n_params": embedder.model.num_parameters,
        "size": embedder.model.size_bytes,
    }


def _answers(deltas: Sequence[Delta], count: int) -> list[Answer]:
    by_index: list[list[Delta]] = [[] for _ in range(count)]
    for delta in deltas:
        by_index[delta.index].append(delta)
    return [Answer.of(each) for each in by_index]
