"""The transports to an engine in this process: the same dicts as over HTTP, without the bytes.

In: routes and JSON bodies. Out: the JSON of `libertai_engine.api.CompletionAPI` (and of its
siblings, for slots and models). Engine errors become what the same failure would be over HTTP.
"""

from __future__ import annotations

import asyncio
import queue
import re
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import aclosing, contextmanager, suppress
from typing import Any, TypeVar

from libertai_llm.engines import Lease
from libertai_llm.errors import LibertaiError, NotFound
from libertai_llm.replies import as_object, engine_error
from libertai_llm.session import Session
from libertai_llm.timeouts import Deadlines, Timeouts
from libertai_llm.transport import JSON, Reply

T = TypeVar("T")


class LocalTransport:
    """An engine in this process, for blocking callers. Safe from many threads.

    Invariant: the engine is loaded at the first call and let go of by `close`, or when the
    transport is forgotten. Without limits a call runs in the caller's own thread; with limits it
    runs in an event loop of the transport's, so that reaching one frees the slot at once.
    """

    def __init__(self, engine: Any) -> None:
        lease, loop = Lease(engine), _LoopThread()
        self._lease, self._loop = lease, loop
        self._forgotten = _when_forgotten(self, lambda: _let_go(lease, loop))

    @property
    def target(self) -> str:
        """The model."""
        return f"engine:{self._lease.name}"

    def request(
        self, method: str, path: str, body: JSON | None, *, session: Session, timeouts: Timeouts
    ) -> Reply:
        """One answer. Raises `LibertaiError`."""
        api = self._lease.api(path)
        if timeouts != Timeouts.unlimited():
            limited = _AsyncCalls(self._lease)
            return self._loop.run(limited.request(method, path, body, session, timeouts))
        session.on_answer_from(self.target)
        with _engine_errors(api):
            return _route(api, method, path, body)

    def stream(
        self, path: str, body: JSON, *, session: Session, timeouts: Timeouts
    ) -> Generator[JSON, None, None]:
        """The JSON objects of a stream; closing it frees the slot."""
        api = self._lease.api(path)
        if timeouts != Timeouts.unlimited():
            limited = _AsyncCalls(self._lease)
            yield from self._loop.iterate(limited.stream(path, body, session, timeouts))
            return
        session.on_answer_from(self.target)
        with _engine_errors(api):
            yield from _stream_route(api, path)(body)

    def close(self) -> None:
        """Let go of the engine; it is closed if nobody else in this process uses it."""
        self._forgotten.detach()
        _let_go(self._lease, self._loop)


class AsyncLocalTransport:
    """An engine in this process, for any number of event loops.

    Invariant: as `LocalTransport`; no call blocks its loop, loading the model included.
    """

    def __init__(self, engine: Any) -> None:
        self._lease = Lease(engine)
        self._calls = _AsyncCalls(self._lease)
        self._forgotten = _when_forgotten(self, self._lease.release)

    @property
    def target(self) -> str:
        """The model."""
        return f"engine:{self._lease.name}"

    async def request(
        self, method: str, path: str, body: JSON | None, *, session: Session, timeouts: Timeouts
    ) -> Reply:
        """One answer. Raises `LibertaiError`."""
        return await self._calls.request(method, path, body, session, timeouts)

    def stream(
        self, path: str, body: JSON, *, session: Session, timeouts: Timeouts
    ) -> AsyncGenerator[JSON, None]:
        """The JSON objects of a stream; closing it, or cancelling its task, frees the slot."""
        return self._calls.stream(path, body, session, timeouts)

    async def aclose(self) -> None:
        """Let go of the engine; it is closed if nobody else in this process uses it."""
        self._forgotten.detach()
        await asyncio.to_thread(self._lease.release)


class _AsyncCalls:
    """The routes of a leased engine as coroutines that keep `Timeouts`."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    async def request(
        self, method: str, path: str, body: JSON | None, session: Session, timeouts: Timeouts
    ) -> Reply:
        api = await asyncio.to_thread(self._lease.api, path)
        session.on_answer_from(f"engine:{self._lease.name}")
        with _engine_errors(api):
            answering = {
                "/completion": api.acomplete,
                "/infill": api.ainfill,
                "/embedding": api.aembed,
            }.get(path)
            if method == "POST" and answering is not None:
                work = answering(body)
            else:
                work = asyncio.to_thread(_route, api, method, path, body)
            answer: Reply = await _limited(work, Deadlines(timeouts))
            return answer

    async def stream(
        self, path: str, body: JSON, session: Session, timeouts: Timeouts
    ) -> AsyncGenerator[JSON, None]:
        api = await asyncio.to_thread(self._lease.api, path)
        session.on_answer_from(f"engine:{self._lease.name}")
        deadlines = Deadlines(timeouts)
        with _engine_errors(api):
            streaming = {"/completion": api.astream, "/infill": api.ainfill_stream}.get(path)
            if streaming is None:
                yield as_object(await asyncio.to_thread(_route, api, "POST", path, body))
                return
            async with aclosing(streaming(body)) as events:
                while (item := await _limited(anext(events, None), deadlines)) is not None:
                    yield item
                    deadlines.on_event()
                    if not item.get("stop"):
                        # NOTE: where the next token is there at once, no wait would ever end.
                        deadlines.check()


async def _limited(work: Any, deadlines: Deadlines) -> Any:
    """Await until the next limit, then cancel and raise `TimedOut`."""
    if deadlines.remaining is None:
        return await work
    import anyio

    try:
        with anyio.fail_after(deadlines.remaining):
            return await work
    except TimeoutError as error:
        raise deadlines.error() from error


def _route(api: Any, method: str, path: str, body: JSON | None) -> Reply:
    """One answer of a route. Raises `NotFound` for a route the engine does not have."""
    with_body = {
        "/completion": api.complete,
        "/tokenize": api.tokenize,
        "/detokenize": api.detokenize,
        "/infill": api.infill,
        "/apply-template": api.apply_template,
        "/embedding": api.embed,
    }
    without_body = {
        "/props": api.props,
        "/health": api.health,
        "/slots": lambda: _monitor(api).slots(),
        "/v1/models": lambda: _openai(api).models(),
    }
    answer: Reply
    if method == "POST" and path in with_body:
        answer = with_body[path](body)
    elif method == "GET" and path in without_body:
        answer = without_body[path]()
    elif method == "POST" and (action := _SLOT_ACTION.fullmatch(path)):
        answer = api.slot_action(int(action[1]), action[2], body)
    else:
        raise NotFound(f"the engine has no route {method} {path}", status=404)
    return answer


_SLOT_ACTION = re.compile(r"/slots/(\d+)\?action=(\w+)")


def _monitor(api: Any) -> Any:
    """What answers for the slots."""
    from libertai_engine.monitoring import Monitor

    return Monitor(api.chat_engine, embedder=api.embedder)


def _openai(api: Any) -> Any:
    """What answers for the models."""
    from libertai_engine.openai_api import OpenAIAPI

    return OpenAIAPI(api.chat_engine, embedder=api.embedder)


def _stream_route(api: Any, path: str) -> Callable[[JSON], Iterator[JSON]]:
    """The route as an iterator of events."""
    streaming = {"/completion": api.stream, "/infill": api.infill_stream}
    return streaming.get(path) or (lambda body: iter([as_object(_route(api, "POST", path, body))]))


@contextmanager
def _engine_errors(api: Any) -> Iterator[None]:
    """Engine errors as over HTTP. A closed engine will not open again: no retry."""
    from libertai_engine.errors import EngineError

    try:
        yield
    except EngineError as error:
        found = engine_error(error.status, error.to_json(), getattr(error, "retry_after", None))
        found.is_retryable = found.is_retryable and api.is_alive
        raise found from error


def _when_forgotten(owner: Any, let_go: Callable[[], None]) -> weakref.finalize[..., Any]:
    """Let go when nobody holds `owner` any more.

    NOTE: that is noticed at any moment, also by a thread that holds the very locks that letting go
    needs, so another thread does it, one that the interpreter waits for before it ends: an engine
    that is cut off in the middle of a step takes the process down. At the very end, when there are
    no new threads, the engines close themselves.
    """

    def in_another_thread() -> None:
        with suppress(RuntimeError):  # no new threads while the interpreter ends
            threading.Thread(target=let_go, name="libertai-llm", daemon=False).start()

    finalizer = weakref.finalize(owner, in_another_thread)
    finalizer.atexit = False
    return finalizer


def _let_go(lease: Lease, loop: _LoopThread) -> None:
    loop.close()
    lease.release()


class _LoopThread:
    """An event loop in a thread of its own, started when it is first needed.

    Invariant: what a blocking caller gives up waiting for is cancelled in the loop, and so is
    whatever was begun before `close`; after it nothing begins (`LibertaiError`).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for it."""
        future = self._begin(work)
        with _closed_while_waiting():
            try:
                return future.result()
            finally:
                future.cancel()

    def iterate(self, items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """The items of an asynchronous generator, which is closed with this one."""
        passed: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()

        async def pump() -> None:
            async with aclosing(items):
                async for item in items:
                    passed.put((item,))

        future = self._begin(pump())
        future.add_done_callback(lambda _: passed.put(None))
        try:
            while (box := passed.get()) is not None:
                yield box[0]
            with _closed_while_waiting():
                future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """Stop the loop; twice is fine."""
        with self._lock:
            loop, self._loop = self._loop, None
            self._is_closed = True
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)

    def _begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Hand a coroutine to the loop, before anybody can stop it."""
        with self._lock:
            if self._is_closed:
                work.close()
                raise LibertaiError("the client is closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=_run_loop, args=(self._loop,), name="libertai-llm", daemon=True
                ).start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(_cancel_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _cancel_all() -> None:
    """End what still runs in this loop: whoever waits for it would wait for ever."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _closed_while_waiting() -> Iterator[None]:
    """What a closed loop cancelled is an error like others."""
    try:
        yield
    except CancelledError:
        raise LibertaiError("the client was closed while it waited for the answer") from None
