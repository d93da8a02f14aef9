"""The engines of this process: one for each model, shared by all clients, closed with the last.

In: a model's name, or a running engine or embedder. Out: a `Lease` that loads on first use. The
engine package and torch are imported here, on first use, and nowhere else.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from libertai_llm.errors import EngineNotInstalled, LibertaiError, ModelNotLoaded
from libertai_llm.target import DEMO_MODEL

GENERATE, EMBED = "generate", "embed"
EMBEDDING_PATH = "/embedding"


class SharedEngines:
    """The engines that `load` made by name in this process.

    Invariant: while a name has users there is one engine for it; it is closed with its last user.
    Loading one model does not hold up another. Engines do not survive a fork: a child process
    starts with none, and loads its own.
    """

    def __init__(self, load: Callable[[str], Any]) -> None:
        self._load = load
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
            return entry.engine(lambda: self._load(model))
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

    def engine(self, load: Callable[[], Any]) -> Any:
        """The engine, loaded the first time."""
        with self._lock:
            if self._engine is None:
                self._engine = load()
            return self._engine

    def close(self) -> None:
        """Close the engine, if it was loaded."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()


def load_engine(model: str) -> Any:
    """Load a model that generates. Raises `EngineNotInstalled` or `ModelNotLoaded`."""
    with _load_errors():
        return _import("libertai_engine.engine").load_engine(model)


def load_embedder(model: str) -> Any:
    """Load a model that embeds. Raises `EngineNotInstalled` or `ModelNotLoaded`."""
    with _load_errors():
        return _import("libertai_engine.embeddings").load_embedder(model)


@contextmanager
def _load_errors() -> Iterator[None]:
    engine_errors = _import("libertai_engine.errors")
    try:
        yield
    except engine_errors.EngineError as error:
        raise ModelNotLoaded(str(error)) from error


def _import(name: str) -> Any:
    try:
        return importlib.import_module("libertai_engine.startup").import_large(name)
    except ImportError as error:
        raise EngineNotInstalled(
            f"the in-process engine needs more packages ({error}): "
            "pip install 'libertai-llm[engine]'"
        ) from error


# NOTE: the only objects of the package that belong to the process and not to a caller: "the same
# name in one process shares one engine" has no other home.
SHARED_ENGINES = SharedEngines(load_engine)
SHARED_EMBEDDERS = SharedEngines(load_embedder)
_SHARED = {GENERATE: SHARED_ENGINES, EMBED: SHARED_EMBEDDERS}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SHARED_ENGINES.forget)
    os.register_at_fork(after_in_child=SHARED_EMBEDDERS.forget)


class Lease:
    """One client's hold on the engines of a model: the one that generates, the one that embeds.

    Invariant: a named model is acquired at the first call that needs it and released once, by
    `release`; a running engine or embedder of the caller's is used as it is and never closed.
    """

    def __init__(self, engine: Any) -> None:
        self._given = None if isinstance(engine, str) else engine
        self._model = _key(engine) if isinstance(engine, str) else ""
        self._lock = threading.Lock()
        self._apis: dict[str, Any] = {}
        self._pid = os.getpid()
        self._is_released = False

    @property
    def name(self) -> str:
        """The model's name as it was given."""
        return self._model if self._given is None else str(self._given.name)

    def api(self, path: str = "") -> Any:
        """The `CompletionAPI` that answers a route; its engine is loaded the first time.

        Raises `LibertaiError`.
        """
        if self._pid != os.getpid():
            raise ModelNotLoaded(
                "this client's engine belongs to the process that was forked: make a new client"
            )
        kind = EMBED if path == EMBEDDING_PATH else GENERATE
        with self._lock:
            if self._is_released:
                raise LibertaiError("the client is closed")
            if kind not in self._apis:
                self._apis[kind] = self._make(kind)
            return self._apis[kind]

    def release(self) -> None:
        """Let go of the engines; twice is fine."""
        with self._lock:
            kinds, self._apis, self._is_released = list(self._apis), {}, True
        if self._given is None and self._pid == os.getpid():
            for kind in kinds:
                _SHARED[kind].release(self._model)

    def _make(self, kind: str) -> Any:
        make = _import("libertai_engine.api").CompletionAPI
        engine = self._given or _SHARED[kind].acquire(self._model)
        embeds = hasattr(engine, "aembed")
        return make(None, embedder=engine) if embeds else make(engine)


def _key(model: str) -> str:
    """The same folder or file has one name, however it is written.

    A folder that happens to be called like the bundled model is reached by its path, `./demo`.
    """
    is_file = model != DEMO_MODEL and os.path.exists(model)
    return os.path.realpath(model) if is_file else model
