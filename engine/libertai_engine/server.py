"""HTTP around the llama-like API: routes, and the server that runs them.

In: requests. Out: JSON, or server-sent events `data: {…}`. Every request passes `http.guard`
first; what a route answers comes from `CompletionAPI` or `OpenAIAPI` as it is. Starlette and
uvicorn are known here and in `http/` only.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from libertai_engine.config import ServerConfig
from libertai_engine.http.answers import JSONAnswer, Refusal
from libertai_engine.http.guard import HEALTH, Guard
from libertai_engine.http.lifecycle import Lifecycle
from libertai_engine.http.monitoring import MonitoringEndpoints
from libertai_engine.http.openai import OpenAIEndpoints
from libertai_engine.http.run import DrainingServer, listen
from libertai_engine.http.service import Service

if TYPE_CHECKING:
    from libertai_engine.api import CompletionAPI

Endpoint = Callable[[Request], Awaitable[Response]]


class Endpoints:
    """The routes. Each reads its body before it asks the engine anything."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def completion(self, request: Request) -> Response:
        """`POST /completion`, with `stream` or without."""
        api = self._service.api
        return await self._service.generate(request, api.acomplete, api.astream)

    async def infill(self, request: Request) -> Response:
        """`POST /infill`, with `stream` or without."""
        api = self._service.api
        return await self._service.generate(request, api.ainfill, api.ainfill_stream)

    async def tokenize(self, request: Request) -> Response:
        """`POST /tokenize`."""
        return await self._service.call(self._service.api.tokenize, request)

    async def detokenize(self, request: Request) -> Response:
        """`POST /detokenize`."""
        return await self._service.call(self._service.api.detokenize, request)

    async def apply_template(self, request: Request) -> Response:
        """`POST /apply-template`."""
        return await self._service.call(self._service.api.apply_template, request)

    async def embedding(self, request: Request) -> Response:
        """`POST /embedding`."""
        return await self._service.work(request, self._service.api.aembed)

    async def embeddings(self, request: Request) -> Response:
        """`POST /embeddings`, which always answers an array."""
        api = self._service.api
        return await self._service.work(request, partial(api.aembed, as_list=True))

    async def slot_action(self, request: Request) -> Response:
        """`POST /slots/{slot}?action=…`."""
        headers = request.headers
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        body = await self._service.body(request) if has_body else {}
        action = request.query_params.get("action", "")
        slot = _slot_number(request.path_params["slot"])
        answer = self._service.api.aslot_action(slot, action, body)
        return await self._service.wait(request, answer)

    async def props(self, request: Request) -> Response:
        """`GET /props`."""
        return JSONAnswer(self._service.api.props())

    async def health(self, request: Request) -> Response:
        """`GET /health`: asks nobody who could be busy."""
        return JSONAnswer(self._service.api.health())


def create_app(api: CompletionAPI, config: ServerConfig) -> Starlette:
    """The ASGI app that serves `api`, ready at once."""
    return build_app(Lifecycle(api), config)


def build_app(lifecycle: Lifecycle, config: ServerConfig) -> Starlette:
    """The ASGI app over whatever API the lifecycle holds; 503 while it holds none."""
    service = Service(lifecycle, config)
    to = Endpoints(service)
    app = Starlette(
        routes=[
            _post("/completion", to.completion),
            _post("/completions", to.completion),
            _post("/tokenize", to.tokenize),
            _post("/detokenize", to.detokenize),
            _post("/infill", to.infill),
            _post("/apply-template", to.apply_template),
            _post("/embedding", to.embedding),
            _post("/embeddings", to.embeddings),
            _post("/slots/{slot}", to.slot_action),
            Route("/props", to.props, methods=["GET"]),
            Route(HEALTH, to.health, methods=["GET"]),
            *OpenAIEndpoints(service).routes,
            *MonitoringEndpoints(service).routes,
        ],
        middleware=[Middleware(Guard, lifecycle=lifecycle, config=config)],
        exception_handlers={HTTPException: _refuse},
    )
    app.router.redirect_slashes = False
    return app


def _post(path: str, endpoint: Endpoint) -> Route:
    return Route(path, endpoint, methods=["POST"])


def _slot_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise HTTPException(404)
    # NOTE: Python refuses to read thousands of digits; ten are more than any slot has.
    return int(text[:10])


def _refuse(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the error shape of all others."""
    assert isinstance(error, HTTPException)
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    raise Refusal(error.status_code, kind, error.detail, error.headers) from None


def serve(api: CompletionAPI, config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return. Raises `CannotListen`."""
    listener, lifecycle = listen(config), Lifecycle(api)
    DrainingServer(build_app(lifecycle, config), lifecycle, config).run(sockets=[listener])


def serve_while_loading(
    load: Callable[[], CompletionAPI],
    config: ServerConfig,
    on_ready: Callable[[str, int], None],
) -> None:
    """Like `serve`, but open the port first: 503 "Loading model" until `load` has returned.

    `on_ready` gets the host and port then. Raises `CannotListen` and what `load` raises.
    """
    listener, lifecycle = listen(config), Lifecycle()
    server = DrainingServer(build_app(lifecycle, config), lifecycle, config)
    failures: list[BaseException] = []

    def load_and_tell() -> None:
        try:
            lifecycle.become_ready(load())
            on_ready(*listener.getsockname()[:2])
        except BaseException as error:
            failures.append(error)
            server.should_exit = True

    threading.Thread(target=load_and_tell, name="load-model", daemon=True).start()
    server.run(sockets=[listener])
    if failures:
        raise failures[0]
