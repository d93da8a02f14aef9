"""The hand-off of one sequence's deltas from the engine's thread to one reader.

In: `put` and `fail`, called by the engine and never blocking. Out: iteration, sync or async;
`abort` tells the engine that nobody reads any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from queue import Empty, SimpleQueue

from libertai_engine.errors import EngineError
from libertai_engine.sequence import Delta


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Stream(Iterator[Delta], AsyncIterator[Delta]):
    """The reader's end of one sequence, or of several that were submitted together.

    Invariant: deltas come out in the order they were put, each once; after the last `finish` of
    `num_sequences`, or an error, iteration is over. One reader at a time, in any thread or event
    loop. An error of one sequence ends the others. Only the engine's thread calls `put` and `fail`.
    """

    # NOTE: a queue written in C and no `threading.Condition`: a Ctrl-C inside the Python code of a
    # condition can leave it locked for ever, and the engine with it.

    def __init__(self, on_abort: Callable[[], None], num_sequences: int = 1) -> None:
        self._on_abort = on_abort
        self._num_open = num_sequences
        self._items: SimpleQueue[Delta | EngineError | None] = SimpleQueue()  # None: the end
        self._news: asyncio.Future[None] | None = None  # what the reader waits for
        self._is_closed = False
        self._is_aborted = False
        self._is_over = False
        if num_sequences == 0:
            self._close()

    @property
    def is_aborted(self) -> bool:
        """True if nobody waits for more: the reader has left, or an error ended the stream."""
        return self._is_aborted or (self._is_closed and self._num_open > 0)

    def put(self, delta: Delta) -> None:
        """Append a delta. The last delta with `finish` closes the stream."""
        if self._is_closed:
            return
        self._num_open -= delta.finish is not None
        self._items.put(delta)
        if self._num_open == 0:
            self._close()
        self._wake()

    def fail(self, error: EngineError) -> None:
        """Close the stream with an error that the reader gets raised."""
        if self._is_closed:
            return
        self._items.put(error)
        self._close()
        self._wake()

    def abort(self) -> None:
        """Leave: the engine stops the sequence before its next step. Safe to call at any time.

        A reader that waits in another thread or event loop sees the end.
        """
        if self._is_closed or self._is_aborted:
            return
        self._is_aborted = True
        self._items.put(None)
        self._on_abort()
        self._wake()

    def close(self) -> None:
        """`abort` by the name that `contextlib.closing` knows."""
        self.abort()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Delta:
        """The next delta, waiting for it. Raises the `EngineError` that ended the sequence."""
        if self._is_over:
            raise StopIteration
        item = self._take(self._items.get())
        if item is None:
            raise StopIteration
        return item

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Delta:
        """The same, without blocking the running event loop."""
        while not self._is_over:
            news = self._expect_news()
            try:
                # NOTE: looked at after the wake-up call is set, so that none can be missed.
                item = self._take(self._items.get_nowait())
            except Empty:
                await news
                continue
            _resolve(news)  # nobody waits for it now, and its loop may end before the next delta
            if item is not None:
                return item
        raise StopAsyncIteration

    def _close(self) -> None:
        self._is_closed = True
        self._items.put(None)

    def _wake(self) -> None:
        news, self._news = self._news, None
        if news is None:
            return
        try:
            news.get_loop().call_soon_threadsafe(_resolve, news)
        except RuntimeError:  # its loop was closed: under the reader, unless he has moved on
            if news.cancelled() or not news.done():
                self.abort()

    def _expect_news(self) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        self._news = news = loop.create_future()
        return news

    def _take(self, item: Delta | EngineError | None) -> Delta | None:
        self._is_over = item is None or self._is_aborted
        if isinstance(item, EngineError):
            raise item
        return None if self._is_over else item
