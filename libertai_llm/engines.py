"""The engines of this process: one for each model, shared by all clients, closed with the last.

In: a model's name (or a running engine). Out: a `Lease` that loads on first use. The engine package
and torch are imported here, on first use, and nowhere else.
"""

from __future__ import annotations

import importlib
import os
import threading
from typing import Any

from libertai_llm.errors import EngineNotInstalled, LibertaiError, ModelNotLoaded


class SharedEngines:
    """The engines that were loaded by name in this process.

    Invariant: while a name has users there is one engine for it; it is closed with its last user.
    Loading one model does not hold up another. Engines do not survive a fork: a child process
    starts with none, and loads its own.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin with no engines, without closing any (they belong to the parent of a fork)."""
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def acquire(self, model: str) -> Any:
        """The engine of a model, loaded if need be. Pair with `release`. Raises `LibertaiError`."""
        with self._lock:
            entry = self._entries.setdefault(model, _Entry())
            entry.num_users += 1
        try:
            return entry.engine(model)
        except BaseException:
            self.release(model)
            raise

    def release(self, model: str) -> None:
        """One user less; the last one closes the engine."""
        with self._lock:
            entry = self._entries.get(model)
            if entry is None:
                return
            entry.num_users -= 1
            if entry.num_users > 0:
                return
            del self._entries[model]
        entry.close()


class _Entry:
    """One shared engine and the number of its users; loaded at most once."""

    def __init__(self) -> None:
        self.num_users = 0
        self._lock = threading.Lock()
        self._engine: Any = None

    def engine(self, model: str) -> Any:
        """The engine, loaded the first time."""
        with self._lock:
            if self._engine is None:
                self._engine = load_engine(model)
            return self._engine

    def close(self) -> None:
        """Close the engine, if it was loaded."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()


# NOTE: the one object of the package that belongs to the process and not to a caller: "the same
# name in one process shares one engine" has no other home.
SHARED_ENGINES = SharedEngines()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SHARED_ENGINES.forget)


class Lease:
    """One client's hold on an engine.

    Invariant: a named model is acquired at the first `api()` and released once, by `release`; a
    running engine of the caller's is used as it is and never closed.
    """

    def __init__(self, engine: Any) -> None:
        self._given = None if isinstance(engine, str) else engine
        self._model = _key(engine) if isinstance(engine, str) else ""
        self._lock = threading.Lock()
        self._api: Any = None
        self._pid = os.getpid()
        self._is_released = False

    @property
    def name(self) -> str:
        """The model's name as it was given."""
        return self._model if self._given is None else str(self._given.name)

    def api(self) -> Any:
        """The `CompletionAPI` of the engine; loads it the first time. Raises `LibertaiError`."""
        if self._pid != os.getpid():
            raise ModelNotLoaded(
                "this client's engine belongs to the process that was forked: make a new client"
            )
        with self._lock:
            if self._is_released:
                raise LibertaiError("the client is closed")
            if self._api is None:
                engine = self._given or SHARED_ENGINES.acquire(self._model)
                self._api = _import("libertai_engine.api").CompletionAPI(engine)
            return self._api

    def release(self) -> None:
        """Let go of the engine; twice is fine."""
        with self._lock:
            api, self._api, self._is_released = self._api, None, True
        if api is not None and self._given is None and self._pid == os.getpid():
            SHARED_ENGINES.release(self._model)


def load_engine(model: str) -> Any:
    """Load a model. Raises `EngineNotInstalled` or `ModelNotLoaded`."""
    engine_module = _import("libertai_engine.engine")
    engine_errors = _import("libertai_engine.errors")
    try:
        return engine_module.load_engine(model)
    except engine_errors.EngineError as error:
        raise ModelNotLoaded(str(error)) from error


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EngineNotInstalled(
            f"the in-process engine needs more packages ({error}): "
            "pip install 'libertai-llm[engine]'"
        ) from error


def _key(model: str) -> str:
    """The same folder or file has one name, however it is written."""
    return os.path.realpath(model) if os.path.exists(model) else model
