"""Where a model's calls go: a client for each way of calling, made when it is first needed.

In: `CallOptions` and a prompt. Out: completions and chunks of the client. Each call borrows the
session of its conversation for as long as it runs. A framework's classes share this, and may have
the errors translated.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, aclosing, closing, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from libertai_llm.client import AsyncClient, Client
from libertai_llm.errors import APIError, BadRequest, InvalidOption
from libertai_llm.options import CallOptions
from libertai_llm.prompt import CHATML, ChatTemplate
from libertai_llm.session import Session, SessionStore
from libertai_llm.target import BASE_VARIABLE, resolve_target
from libertai_llm.types import Completion, CompletionChunk, Props

# A server that has no such route, or keeps it to itself, tells nothing about its template.
_TELLS_NOTHING = frozenset({403, 404, 405, 501})

Translation = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where calls go and what they bring: `settings` for both clients, and HTTP libraries' own."""

    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    session: Any = None
    http_client: Any = None


class Connection:
    """The clients of one target. Safe from many threads and event loops.

    Invariant: at most one `Client` and one `AsyncClient` exist, both for `target`; nothing is
    connected or loaded before the first call. A pickled connection comes back without a target.
    Every call runs inside `translation()`, which may raise a `LibertaiError` as another kind.
    """

    def __init__(
        self, target: Target, sessions: SessionStore, translation: Translation = nullcontext
    ) -> None:
        self.target = target
        self.sessions = sessions
        self._translated = translation
        self._client: Client | None = None
        self._async_client: AsyncClient | None = None
        self._props: Props | None = None
        self._template: ChatTemplate | None = None
        self._given: tuple[str, ChatTemplate] | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Connection], tuple[Target, SessionStore, Translation]]:
        return Connection, (Target(), SessionStore(), self._translated)

    @property
    def client(self) -> Client:
        """The blocking client."""
        with self._lock:
            if self._client is None:
                self._client = Client(**self._settings, session=self.target.session)
            return self._client

    @property
    def async_client(self) -> AsyncClient:
        """The client that does not block."""
        with self._lock:
            if self._async_client is None:
                http_client = self.target.http_client
                self._async_client = AsyncClient(**self._settings, http_client=http_client)
            return self._async_client

    def complete(self, call: CallOptions, prompt: str) -> Completion:
        """The whole answer. Raises `InvalidOption` for images that nobody would look at."""
        call = self._prepared(call)
        with self._translated(), self.sessions.checkout(call.thread_id, prompt) as session:
            try:
                return self.client.complete(prompt, session=session, **call.arguments)
            except BadRequest as error:
                if not call.may_stay_open(error):
                    raise
            call = call.staying_open()
            return self.client.complete(prompt, session=session, **call.arguments)

    async def acomplete(self, call: CallOptions, prompt: str) -> Completion:
        """`complete` without blocking."""
        call = await self._aprepared(call)
        with self._translated(), self.sessions.checkout(call.thread_id, prompt) as session:
            try:
                return await self.async_client.complete(prompt, session=session, **call.arguments)
            except BadRequest as error:
                if not call.may_stay_open(error):
                    raise
            call = call.staying_open()
            return await self.async_client.complete(prompt, session=session, **call.arguments)

    def stream(self, call: CallOptions, prompt: str) -> Generator[CompletionChunk, None, None]:
        """The answer as it comes. Closing the generator stops it at the other end."""
        call = self._prepared(call)
        with (
            self._translated(),
            self.sessions.checkout(call.thread_id, prompt) as session,
            closing(self._chunks(call, prompt, session)) as chunks,
        ):
            yield from chunks

    def _chunks(
        self, call: CallOptions, prompt: str, session: Session
    ) -> Generator[CompletionChunk, None, None]:
        try:
            with closing(self.client.stream(prompt, session=session, **call.arguments)) as chunks:
                yield from chunks
        except BadRequest as error:
            if not call.may_stay_open(error):
                raise
        else:
            return
        call = call.staying_open()
        with closing(self.client.stream(prompt, session=session, **call.arguments)) as chunks:
            yield from chunks

    async def astream(
        self, call: CallOptions, prompt: str
    ) -> AsyncGenerator[CompletionChunk, None]:
        """`stream` without blocking."""
        call = await self._aprepared(call)
        with self._translated(), self.sessions.checkout(call.thread_id, prompt) as session:
            async with aclosing(self._achunks(call, prompt, session)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def _achunks(
        self, call: CallOptions, prompt: str, session: Session
    ) -> AsyncGenerator[CompletionChunk, None]:
        stream = self.async_client.stream
        try:
            async with aclosing(stream(prompt, session=session, **call.arguments)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except BadRequest as error:
            if not call.may_stay_open(error):
                raise
        else:
            return
        call = call.staying_open()
        async with aclosing(stream(prompt, session=session, **call.arguments)) as chunks:
            async for chunk in chunks:
                yield chunk

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        """The token ids of a text; with `add_special`, those that the server puts around it."""
        with self._translated():
            return self.client.tokenize(text, add_special=add_special)

    def template(self, source: str | None) -> ChatTemplate:
        """The chat template: the given one, else the server's, else ChatML. Asked for once."""
        if source is not None:
            return self._given_template(source)
        if self._template is None:
            self._template = _told_template(self.props())
        return self._template

    async def atemplate(self, source: str | None) -> ChatTemplate:
        """`template` without blocking."""
        if source is not None:
            return self._given_template(source)
        if self._template is None:
            self._template = _told_template(await self.aprops())
        return self._template

    def _given_template(self, source: str) -> ChatTemplate:
        """The template of this source; compiling one takes longer than asking a server."""
        known = self._given
        if known is None or known[0] != source:
            known = self._given = (source, _given_template(source))
        return known[1]

    @property
    def known_context_size(self) -> int | None:
        """Tokens of a slot's context, if that was asked and told. Asks nobody."""
        return None if self._props is None else self._props.context_size

    def props(self) -> Props:
        """What the server tells of itself; nothing, if it keeps that to itself. Asked for once."""
        if self._props is None:
            with self._translated():
                try:
                    self._props = self.client.props()
                except APIError as error:
                    self._props = _no_props(error)
        return self._props

    async def aprops(self) -> Props:
        """`props` without blocking."""
        if self._props is None:
            with self._translated():
                try:
                    self._props = await self.async_client.props()
                except APIError as error:
                    self._props = _no_props(error)
        return self._props

    def close(self) -> None:
        """Let go of the blocking client."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Let go of both clients."""
        self.close()
        with self._lock:
            client, self._async_client = self._async_client, None
        if client is not None:
            await client.aclose()

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """The clients' settings. Which target is meant is settled once, with one warning."""
        settings = self.target.settings
        if settings["base_url"] or settings["engine"] is not None or os.environ.get(BASE_VARIABLE):
            return settings
        return {**settings, "engine": resolve_target(None, None)}

    def _prepared(self, call: CallOptions) -> CallOptions:
        """The call as this server wants it. Raises `InvalidOption` for images it would ignore."""
        return _prepared(call, self.props()) if _depends_on_server(call) else call

    async def _aprepared(self, call: CallOptions) -> CallOptions:
        """`_prepared` without blocking."""
        return _prepared(call, await self.aprops()) if _depends_on_server(call) else call


def _no_props(error: APIError) -> Props:
    if error.status in _TELLS_NOTHING:
        return Props()
    raise error


def _depends_on_server(call: CallOptions) -> bool:
    return call.is_closing or bool(call.options.get("image_data"))


def _prepared(call: CallOptions, props: Props) -> CallOptions:
    if call.options.get("image_data") and props.sees_images is False:
        raise InvalidOption("the server's model is not shown images", field="image_data")
    return call.closing() if call.is_closing and props.closes_grammars else call


def _told_template(props: Props) -> ChatTemplate:
    return ChatTemplate(props.chat_template, props.bos_token, props.eos_token)


def _given_template(source: str) -> ChatTemplate:
    if source == "chatml":
        return ChatTemplate(CHATML)
    if "{" not in source:
        raise InvalidOption(
            "`chat_template` must be jinja2 source or 'chatml'", field="chat_template"
        )
    return ChatTemplate(source)
