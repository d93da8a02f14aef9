"""One way to call LangChain's runnables, for tests that take each way in turn.

In: a runnable, a recorded server, "sync" or "async". Out: what the runnable returns.
"""

from __future__ import annotations

from typing import Any


class Driver:
    """A runnable, called one way. Invariant: it waits before each call."""

    def __init__(self, runnable: Any, server: Any, style: str) -> None:
        self.runnable, self.server, self.style = runnable, server, style

    async def invoke(self, value: Any, **options: Any) -> Any:
        self.server.settle()
        if self.style == "sync":
            return self.runnable.invoke(value, **options)
        return await self.runnable.ainvoke(value, **options)

    async def stream(self, value: Any, **options: Any) -> list[Any]:
        self.server.settle()
        if self.style == "sync":
            return list(self.runnable.stream(value, **options))
        return [chunk async for chunk in self.runnable.astream(value, **options)]
