"""The llama-like API over an engine: dicts in, dicts out, no bytes.

In: the JSON body of a route. Out: the JSON object of its answer, or a stream of them. The HTTP
server and the in-process transport both call this, so both give the same answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from libertai_engine.embeddings import Embedder
from libertai_engine.engine import Engine
from libertai_engine.errors import (
    EngineError,
    EngineUnavailable,
    NotSupported,
    PermissionDenied,
)
from libertai_engine.sequence import Delta
from libertai_engine.slot_actions import SlotActions
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.wire.coerce import Body, to_bool, to_int, to_str, wrong
from libertai_engine.wire.embeddings import (
    EmbeddingCall,
    embedding_props,
    format_embedding,
    parse_embedding,
)
from libertai_engine.wire.format import Answer, default_settings, format_chunk, format_result
from libertai_engine.wire.infill import parse_infill
from libertai_engine.wire.messages import parse_chat
from libertai_engine.wire.parse import CompletionCall, Limits, parse_completion
from libertai_engine.wire.system import SystemPrompt, parse_system_prompt

JSON = dict[str, Any]
Result = JSON | list[JSON]
Parse = Callable[[Any, Tokenizer, Limits], CompletionCall]


class CompletionAPI:
    """The routes as methods. Safe from many threads and event loops at once.

    Every method raises `EngineError` (`.status`, `.to_json()`); a stream that has begun ends with
    an item `{"error": {…}}` instead. Leaving a stream or cancelling a call frees its slot. Without
    an engine, or without an embedder, what needs one raises `NotSupported`.
    """

    def __init__(
        self,
        engine: Engine | None,
        *,
        embedder: Embedder | None = None,
        may_set_system_prompt: bool = True,
    ) -> None:
        self.chat_engine = engine
        self.embedder = embedder
        self._may_set_system_prompt = may_set_system_prompt
        self._system = SystemPrompt()

    @property
    def engine(self) -> Engine:
        """What generates. Raises `NotSupported` if there is an embedding model only."""
        if self.chat_engine is None:
            raise NotSupported("this server only embeds: it was started with `--embedding`")
        return self.chat_engine

    @property
    def sees_images(self) -> bool:
        """Whether bodies may carry images."""
        return self.chat_engine is not None and self.chat_engine.sees_images

    @property
    def is_alive(self) -> bool:
        """True while requests are accepted."""
        parts = [each for each in (self.chat_engine, self.embedder) if each is not None]
        return all(each.is_alive for each in parts)

    def wants_stream(self, body: Any) -> bool:
        """Whether a body asks to be answered by `stream` or `infill_stream`."""
        wish: bool = Body(body).get("stream", to_bool, False)
        return wish

    def complete(self, body: Any) -> Result:
        """`POST /completion` without `stream`: the whole answer; a list of them for an array of
        prompts, in their order."""
        return self._complete(self._parse(body))

    async def acomplete(self, body: Any) -> Result:
        """`complete` without blocking the event loop."""
        return await self._acomplete(await asyncio.to_thread(self._parse, body))

    def stream(self, body: Any) -> Iterator[JSON]:
        """`POST /completion` with `stream`: an object a step, the last one with `stop: true`.

        For an array of prompts each ends with such an object, and `index` tells them apart.
        """
        return self._stream(self._parse(body, is_stream=True))

    async def astream(self, body: Any) -> AsyncGenerator[JSON, None]:
        """`stream` without blocking the event loop."""
        call = await asyncio.to_thread(self._parse, body, is_stream=True)
        async with aclosing(self._astream(call)) as events:
            async for event in events:
                yield event

    def tokenize(self, body: Any) -> dict[str, Any]:
        """`POST /tokenize`: `content`, a text or an array of texts and ids, to `{"tokens": […]}`.

        `add_special` puts BOS in front, `parse_special` (default true) reads control tokens in the
        text, `with_pieces` answers `{"id", "piece"}` objects (a piece that is no text: its bytes).
        """
        fields = Body(body)
        add_special = fields.get("add_special", to_bool, False)
        parse_special = fields.get("parse_special", to_bool, True)
        token_ids: list[int] = []
        for index, piece in enumerate(fields.get("content", _to_pieces, ())):
            token_ids += self._tokenize_piece(piece, add_special and index == 0, parse_special)
        if not fields.get("with_pieces", to_bool, False):
            return {"tokens": token_ids}
        return {"tokens": [{"id": each, "piece": self._piece(each)} for each in token_ids]}

    def _tokenize_piece(self, piece: Any, add_special: bool, parse_special: bool) -> list[int]:
        tokenizer = self.engine.tokenizer
        if isinstance(piece, int) and not isinstance(piece, bool):
            return [to_int("content", piece, 0, tokenizer.vocab_size - 1)]
        text = to_str("content", piece)
        return tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, body: Any) -> dict[str, Any]:
        """`POST /detokenize`: `tokens` to `{"content": text}`; broken UTF-8 becomes U+FFFD."""
        tokenizer = self.engine.tokenizer
        token_ids = Body(body).get("tokens", _to_array, [])
        high = tokenizer.vocab_size - 1
        pieces = [tokenizer.token_bytes(to_int("tokens", each, 0, high)) for each in token_ids]
        return {"content": b"".join(pieces).decode(errors="replace")}

    def apply_template(self, body: Any) -> JSON:
        """`POST /apply-template`: chat `messages` to the `{"prompt": text}` for `/completion`."""
        return {"prompt": parse_chat(Body(body), self.engine.tokenizer).text}

    def infill(self, body: Any) -> Result:
        """`POST /infill` without `stream`: what belongs between `input_prefix` and `input_suffix`.

        Takes the options of `/completion` and answers as it does. Raises `NotSupported` if the
        model has no fill-in-the-middle tokens.
        """
        return self._complete(self._parse(body, parse_infill))

    async def ainfill(self, body: Any) -> Result:
        """`infill` without blocking the event loop."""
        return await self._acomplete(await asyncio.to_thread(self._parse, body, parse_infill))

    def infill_stream(self, body: Any) -> Iterator[JSON]:
        """`POST /infill` with `stream`: an object a step, the last one with `stop: true`."""
        return self._stream(self._parse(body, parse_infill, is_stream=True))

    async def ainfill_stream(self, body: Any) -> AsyncGenerator[JSON, None]:
        """`infill_stream` without blocking the event loop."""
        call = await asyncio.to_thread(self._parse, body, parse_infill, is_stream=True)
        async with aclosing(self._astream(call)) as events:
            async for event in events:
                yield event

    def slot_action(self, slot: int, action: str, body: Any) -> JSON:
        """`POST /slots/{slot}?action=…`: "save" or "restore" the file `filename`, or "erase"."""
        engine = self.engine
        return SlotActions(engine, engine.config.slot_folder).run(slot, action, body)

    async def aslot_action(self, slot: int, action: str, body: Any) -> JSON:
        """`slot_action` without blocking the event loop. Cancelled while it waits for the slot, it
        does nothing."""
        engine = self.engine
        return await SlotActions(engine, engine.config.slot_folder).arun(slot, action, body)

    def embed(self, body: Any, *, as_list: bool = False) -> Any:
        """`POST /embedding`: the vector of a text, or an array of them.

        With `as_list` (`POST /embeddings`), or if `input` holds the texts, always an array.
        """
        embedder, call = self._parse_embedding(body)
        vectors = call.finish(embedder.embed(call.rows))
        return format_embedding(vectors, call, as_list=as_list or _has_input(body))

    async def aembed(self, body: Any, *, as_list: bool = False) -> Any:
        """`embed` without blocking the event loop."""
        embedder, call = await asyncio.to_thread(self._parse_embedding, body)
        vectors = call.finish(await embedder.aembed(call.rows))
        as_list = as_list or _has_input(body)
        return await asyncio.to_thread(format_embedding, vectors, call, as_list=as_list)

    def _parse_embedding(self, body: Any) -> tuple[Embedder, EmbeddingCall]:
        if self.embedder is None:
            raise NotSupported("this server has no embedding model: see `--embedding-model`")
        return self.embedder, parse_embedding(body, self.embedder, ("input", "content"))

    def props(self) -> dict[str, Any]:
        """`GET /props`: what a client needs to know of models and slots."""
        known = {} if self.chat_engine is None else self._engine_props(self.chat_engine)
        return {
            "assistant_name": self._system.assistant_name,
            "user_name": self._system.user_name,
            "modalities": {"vision": self.sees_images, "audio": False},
            "build_info": f"libertai-engine {version('libertai-llm')}",
            "embedding": None if self.embedder is None else embedding_props(self.embedder),
            **known,
        }

    def _engine_props(self, engine: Engine) -> dict[str, Any]:
        tokenizer = engine.tokenizer
        return {
            "default_generation_settings": {
                "n_ctx": engine.context_size,
                "params": default_settings(),
            },
            "total_slots": engine.num_slots,
            "model_alias": engine.name,
            "model_path": engine.name,  # a name, since a path is nobody's business
            "chat_template": tokenizer.chat_template or "",
            "bos_token": tokenizer.bos_token or "",
            "eos_token": tokenizer.eos_token or "",
        }

    def health(self) -> dict[str, Any]:
        """`GET /health`. Raises `EngineUnavailable` if no request can be answered any more."""
        if not self.is_alive:
            raise EngineUnavailable("the engine is closed")
        return {"status": "ok"}

    def _parse(
        self, body: Any, parse: Parse = parse_completion, *, is_stream: bool = False
    ) -> CompletionCall:
        fields = {**body, "stream": is_stream} if isinstance(body, dict) else body
        engine = self.engine
        asked_system = self._asked_system(fields)
        system = asked_system or self._system
        limits = Limits(
            num_slots=engine.num_slots,
            context_size=engine.context_size,
            system_ids=system.token_ids,
            vision=engine.vision,
            grammars=engine.grammars,
        )
        call = parse(fields, engine.tokenizer, limits)
        if asked_system is not None:  # requests after this one see it, running ones do not
            self._system = asked_system
        return call

    def _asked_system(self, body: Any) -> SystemPrompt | None:
        """The system prompt that a body sets, if it sets one."""
        value = body.get("system_prompt") if isinstance(body, dict) else None
        if value is None:
            return None
        if not self._may_set_system_prompt:
            raise PermissionDenied("`system_prompt` may be set by the server's owner only")
        return parse_system_prompt(value, self.engine.tokenizer, self.engine.context_size)

    def _complete(self, call: CompletionCall) -> Result:
        with closing(self.engine.submit(*call.requests)) as stream:
            return self._result(list(stream), call)

    async def _acomplete(self, call: CompletionCall) -> Result:
        with closing(self.engine.submit(*call.requests)) as stream:
            deltas = [delta async for delta in stream]
        if not call.requests[0].sampling.num_probs:
            return self._result(deltas, call)
        # NOTE: a hundred probabilities a token take longer than an event loop should be kept.
        return await asyncio.to_thread(self._result, deltas, call)

    def _stream(self, call: CompletionCall) -> Iterator[JSON]:
        with closing(self.engine.submit(*call.requests)) as stream:
            yield from self._events(next(stream), call)
            try:
                for delta in stream:
                    yield from self._events(delta, call)
            except EngineError as error:
                yield {"error": error.to_json()}

    async def _astream(self, call: CompletionCall) -> AsyncGenerator[JSON, None]:
        with closing(self.engine.submit(*call.requests)) as stream:
            for event in self._events(await anext(stream), call):
                yield event
            try:
                async for delta in stream:
                    for event in self._events(delta, call):
                        yield event
            except EngineError as error:
                yield {"error": error.to_json()}

    def _events(self, delta: Delta, call: CompletionCall) -> Iterator[JSON]:
        """What a delta is on the wire. The final object has no text: many readers skip it there."""
        if delta.text or delta.tokens or delta.finish is None:
            yield format_chunk(delta, call, self.engine.tokenizer)
        if delta.finish is not None:
            yield self._object(Answer.of([replace(delta, text="", tokens=())]), call)

    def _result(self, deltas: Sequence[Delta], call: CompletionCall) -> Result:
        by_prompt: list[list[Delta]] = [[] for _ in call.requests]
        for delta in deltas:
            by_prompt[delta.index].append(delta)
        results = [self._object(Answer.of(each), call) for each in by_prompt]
        return results if call.is_several else results[0]

    def _object(self, answer: Answer, call: CompletionCall) -> JSON:
        engine = self.engine
        return format_result(
            answer, call, engine.tokenizer, model=engine.name, context_size=engine.context_size
        )

    def _piece(self, token_id: int) -> str | list[int]:
        piece = self.engine.tokenizer.token_bytes(token_id)
        try:
            return piece.decode()
        except UnicodeDecodeError:
            return list(piece)


def _has_input(body: Any) -> bool:
    return Body(body).fields.get("input") is not None


def _to_pieces(name: str, value: Any) -> list[Any]:
    if not isinstance(value, (str, list)):
        raise wrong(name, "a string or an array of strings and token ids")
    return [value] if isinstance(value, str) else value


def _to_array(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise wrong(name, "an array")
    return value
