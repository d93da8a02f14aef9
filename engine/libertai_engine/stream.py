"""The hand-off of one sequence's deltas from the engine's thread to one reader.

In: `put` and `fail`, called by the engine and never blocking. Out: iteration, sync or async;
`abort` tells the engine that nobody reads any more.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

from libertai_engine.errors import EngineError
from libertai_engine.sequence import Delta


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Stream(Iterator[Delta], AsyncIterator[Delta]):
    """The reader's end of one sequence, or of several that were submitted together.

    Invariant: deltas come out in the order they were put, each once; after the last `finish` of
    `num_sequences`, or an error, iteration is over. One reader at a time, in any thread or event
    loop. An error of one sequence ends the others.
    """

    def __init__(self, on_abort: Callable[[], None], num_sequences: int = 1) -> None:
        self._on_abort = on_abort
        self._num_open = num_sequences
        self._items: deque[Delta | EngineError] = deque()
        self._changed = threading.Condition()
        self._wake_loop: Callable[[], object] | None = None
        self._is_closed = num_sequences == 0
        self._is_aborted = False

    @property
    def is_aborted(self) -> bool:
        """True if nobody waits for more: the reader has left, or an error ended the stream."""
        return self._is_aborted or (self._is_closed and self._num_open > 0)

    def put(self, delta: Delta) -> None:
        """Append a delta. The last delta with `finish` closes the stream."""
        self._num_open -= delta.finish is not None
        self._append(delta, is_last=self._num_open == 0)

    def fail(self, error: EngineError) -> None:
        """Close the stream with an error that the reader gets raised."""
        self._append(error, is_last=True)

    def abort(self) -> None:
        """Leave: the engine stops the sequence before its next step. Safe to call at any time.

        A reader that waits in another thread or event loop sees the end.
        """
        with self._changed:
            if self._is_closed or self._is_aborted:
                return
            self._is_aborted = True
            wake_loop, self._wake_loop = self._wake_loop, None
            self._changed.notify_all()
        self._on_abort()
        if wake_loop is not None:
            self._wake(wake_loop)

    def close(self) -> None:
        """`abort` by the name that `contextlib.closing` knows."""
        self.abort()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Delta:
        """The next delta, waiting for it. Raises the `EngineError` that ended the sequence."""
        with self._changed:
            while not self._items:
                if self._is_over:
                    raise StopIteration
                self._changed.wait()
            return self._take()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Delta:
        """The same, without blocking the running event loop."""
        while True:
            with self._changed:
                if self._items:
                    return self._take()
                if self._is_over:
                    raise StopAsyncIteration
                news = self._expect_news()
            await news

    @property
    def _is_over(self) -> bool:
        return self._is_closed or self._is_aborted

    def _append(self, item: Delta | EngineError, *, is_last: bool) -> None:
        with self._changed:
            if self._is_closed:
                return
            self._items.append(item)
            self._is_closed = self._is_closed or is_last
            wake_loop, self._wake_loop = self._wake_loop, None
            self._changed.notify_all()
        if wake_loop is not None:
            self._wake(wake_loop)

    def _wake(self, wake_loop: Callable[[], object]) -> None:
        try:
            wake_loop()
        except RuntimeError:  # the reader's event loop was closed under it
            self.abort()

    def _expect_news(self) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._wake_loop = partial(loop.call_soon_threadsafe, _resolve, future)
        return future

    def _take(self) -> Delta:
        item = self._items.popleft()
        if isinstance(item, EngineError):
            raise item
        return item
