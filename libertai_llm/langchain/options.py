"""Which conversation a call belongs to, as LangChain's config names it.

In: LangChain's config and a call's keyword arguments. Out: those with the conversation's name.
"""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig, ensure_config


def with_thread(config: RunnableConfig | None, options: dict[str, Any]) -> dict[str, Any]:
    """The call's options and the conversation that its config names, which LangChain drops."""
    thread_id = options.get("thread_id") or thread_of(ensure_config(config))
    return {**options, "thread_id": thread_id} if thread_id else options


def thread_of(config: RunnableConfig) -> str | None:
    """The conversation's name: `configurable`'s `thread_id`, else its `session_id`."""
    configurable = config.get("configurable") or {}
    named = (configurable.get(name) for name in ("thread_id", "session_id"))
    found = next((each for each in named if each is not None), None)
    return None if found is None else str(found)


def current_thread() -> str | None:
    """The conversation named by the config around the running code."""
    return thread_of(ensure_config())
