"""The hand-off from the engine's thread to one reader, sync and async."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from libertai_engine.errors import EngineUnavailable
from libertai_engine.sequence import Delta, Finish, FinishReason, Timings
from libertai_engine.stream import Stream


def delta(text: str, *, is_last: bool = False) -> Delta:
    finish = Finish(
        reason=FinishReason.EOS,
        stop_word="",
        slot=0,
        seed=1,
        num_prompt_tokens=1,
        num_cached=0,
        num_generated=1,
        num_in_cache=1,
        truncated=False,
        timings=Timings(1.0, 1.0),
    )
    return Delta(text, (), 0, finish if is_last else None)


def test_deltas_come_in_order_and_end() -> None:
    """What was put comes out once, in order; the finish ends the iteration."""
    stream = Stream(on_abort=lambda: None)
    for item in (delta("a"), delta("b"), delta("c", is_last=True)):
        stream.put(item)
    assert [item.text for item in stream] == ["a", "b", "c"]
    assert list(stream) == []


def test_an_error_is_raised_once_after_what_came_before() -> None:
    """The reader gets the text first, then the error, then the end."""
    stream = Stream(on_abort=lambda: None)
    stream.put(delta("a"))
    stream.fail(EngineUnavailable("gone"))
    assert next(stream).text == "a"
    with pytest.raises(EngineUnavailable, match="gone"):
        next(stream)
    assert list(stream) == []


def test_abort_tells_the_engine_once() -> None:
    """Leaving twice is leaving once; leaving a finished stream is nothing."""
    calls: list[int] = []
    stream = Stream(on_abort=lambda: calls.append(1))
    stream.abort()
    stream.abort()
    assert calls == [1] and stream.is_aborted and list(stream) == []
    finished = Stream(on_abort=lambda: calls.append(2))
    finished.put(delta("a", is_last=True))
    finished.abort()
    assert calls == [1] and not finished.is_aborted


def test_abort_wakes_a_reader_in_another_thread() -> None:
    """Whoever waits for the next delta learns that none will come."""
    stream = Stream(on_abort=lambda: None)
    seen: list[list[Delta]] = []
    reader = threading.Thread(target=lambda: seen.append(list(stream)))
    reader.start()
    time.sleep(0.05)
    stream.abort()
    reader.join(5)
    assert not reader.is_alive() and seen == [[]]


async def test_abort_wakes_a_reader_in_an_event_loop() -> None:
    """The same for a task."""
    stream = Stream(on_abort=lambda: None)
    reader = asyncio.create_task(anext(stream, None))
    await asyncio.sleep(0)
    await asyncio.to_thread(stream.abort)
    assert await asyncio.wait_for(reader, 5) is None


def put_from_a_thread(stream: Stream, count: int) -> threading.Thread:
    def work() -> None:
        for number in range(count):
            time.sleep(0.0005)
            stream.put(delta(str(number), is_last=number == count - 1))

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("pause", [0.0, 0.002])
async def test_async_reader_sees_what_a_sync_reader_sees(pause: float) -> None:
    """A slow or fast async reader misses nothing and the event loop is never blocked."""
    stream = Stream(on_abort=lambda: None)
    thread = put_from_a_thread(stream, 30)
    seen = []
    async for item in stream:
        seen.append(item.text)
        await asyncio.sleep(pause)
    thread.join()
    assert seen == [str(number) for number in range(30)]


async def test_waiting_does_not_block_the_loop() -> None:
    """While a reader waits, other tasks of the loop run."""
    stream = Stream(on_abort=lambda: None)
    reader = asyncio.create_task(anext(stream))
    ticks = 0
    while ticks < 20:
        await asyncio.sleep(0.001)
        ticks += 1
    assert not reader.done()
    stream.put(delta("late"))
    assert (await reader).text == "late"


async def test_a_cancelled_reader_can_leave() -> None:
    """Cancelling the task that waits leaves the stream usable: nothing is lost."""
    stream = Stream(on_abort=lambda: None)
    reader = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    stream.put(delta("kept"))
    assert (await anext(stream)).text == "kept"


def test_a_closed_event_loop_aborts() -> None:
    """If the reader's loop died, the engine is told that nobody reads."""
    left: list[str] = []
    stream = Stream(on_abort=lambda: left.append("left"))
    loop = asyncio.new_event_loop()
    waiting: Callable[[], object] = stream.__anext__
    task = loop.create_task(waiting())  # type: ignore[arg-type]
    loop.run_until_complete(asyncio.sleep(0))
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    stream.put(delta("a"))
    assert left == ["left"]


def test_a_reader_may_go_on_in_another_loop_or_in_none() -> None:
    """Loops that have ended are nobody's loss, unless somebody still waits there."""
    left: list[str] = []
    stream = Stream(on_abort=lambda: left.append("left"))
    for text in ("a", "b"):
        stream.put(delta(text))

    async def read() -> str:
        return (await anext(stream)).text

    assert asyncio.run(read()) == "a"
    assert asyncio.run(read()) == "b"
    stream.put(delta("c"))
    stream.put(delta("d", is_last=True))
    assert [item.text for item in stream] == ["c", "d"] and not left
