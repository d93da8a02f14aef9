"""Where the server is in its life: loading, ready, draining, stopped.

In: the API when the model is loaded, signals. Out: the API for those who may use it, or 503.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from libertai_engine.errors import EngineUnavailable

if TYPE_CHECKING:  # it brings torch, and a server that loads its model answers before that
    from libertai_engine.api import CompletionAPI

LOADING = "Loading model"
STOPPING = "the server is shutting down"


class Lifecycle:
    """The server's state, moving one way only: loading, ready, draining, stopped.

    `num_requests` counts the requests being answered. `stopped` is set once, when those still
    running shall end now. Only `become_ready` and `drain` may be called from other threads.
    """

    def __init__(self, api: CompletionAPI | None = None) -> None:
        self._api = api
        self._draining = False
        self.num_requests = 0
        self.stopped = asyncio.Event()

    def become_ready(self, api: CompletionAPI) -> None:
        """The model is loaded: answer from now on."""
        self._api = api

    def drain(self) -> None:
        """Take no new request; those running go on."""
        self._draining = True

    @property
    def is_draining(self) -> bool:
        """True once the server takes no new request."""
        return self._draining

    @property
    def sees_images(self) -> bool:
        """True once a model is loaded that is shown images, whose bodies are larger."""
        return self._api is not None and self._api.sees_images

    @property
    def api(self) -> CompletionAPI:
        """What answers. Raises `EngineUnavailable` (503) while loading and draining."""
        if self._draining:
            raise EngineUnavailable(STOPPING, retry_after=5)
        if self._api is None:
            raise EngineUnavailable(LOADING, retry_after=2)
        return self._api
