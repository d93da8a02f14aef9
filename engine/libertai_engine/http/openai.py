"""The `/v1` routes: OpenAI's API, for the programs that speak it.

In: requests. Out: what `OpenAIAPI` answers, errors in OpenAI's shape, streams that end with [DONE].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from libertai_engine.http.answers import JSONAnswer
from libertai_engine.http.service import Service

if TYPE_CHECKING:
    from libertai_engine.openai_api import OpenAIAPI


class OpenAIEndpoints:
    """OpenAI's routes over the same engine as the llama-like ones."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._made: OpenAIAPI | None = None

    @property
    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
            Route("/v1/completions", self.text, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/embeddings", self.embeddings, methods=["POST"]),
        ]

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        return JSONAnswer(self._api.models())

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{name}`, a name with slashes included."""
        return JSONAnswer(self._api.model(request.path_params["name"]))

    async def text(self, request: Request) -> Response:
        """`POST /v1/completions`, with `stream` or without."""
        api = self._api
        return await self._service.generate(request, api.text, api.text_stream)

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`, with `stream` or without."""
        api = self._api
        return await self._service.generate(request, api.chat, api.chat_stream)

    async def embeddings(self, request: Request) -> Response:
        """`POST /v1/embeddings`."""
        api = self._api
        return await self._service.work(request, api.embeddings)

    @property
    def _api(self) -> OpenAIAPI:
        api = self._service.api
        if self._made is None:
            # It brings torch, and a server that still loads its model answers without.
            from libertai_engine.openai_api import OpenAIAPI

            self._made = OpenAIAPI(api.chat_engine, embedder=api.embedder)
        return self._made
