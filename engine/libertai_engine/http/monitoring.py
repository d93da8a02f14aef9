"""`GET /metrics` and `GET /slots`, for operators; off unless the server's owner asks for them.

In: requests. Out: Prometheus' text, JSON without any text of a user, or 501.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from libertai_engine.errors import EngineUnavailable, NotSupported
from libertai_engine.http.answers import JSONAnswer, invalid
from libertai_engine.http.service import Service

if TYPE_CHECKING:
    from libertai_engine.monitoring import Monitor


class MonitoringEndpoints:
    """The operators' routes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._made: Monitor | None = None

    @property
    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/slots", self.slots, methods=["GET"]),
        ]

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`."""
        if not self._service.config.has_metrics:
            raise NotSupported("this server has no metrics: start it with `--metrics`")
        from libertai_engine.monitoring import METRICS_TYPE

        return Response(self._monitor.metrics(), headers={"content-type": METRICS_TYPE})

    async def slots(self, request: Request) -> Response:
        """`GET /slots`; with `fail_on_no_slot=1`, 503 when all are busy."""
        if not self._service.config.has_slots:
            raise NotSupported("this server does not show its slots: start it with `--slots`")
        slots = self._monitor.slots()
        wish = request.query_params.get("fail_on_no_slot", "0")
        if wish not in ("0", "1"):
            raise invalid("`fail_on_no_slot` must be 0 or 1")
        if wish == "1" and all(slot["is_processing"] for slot in slots):
            raise EngineUnavailable("no slot available")
        return JSONAnswer(slots)

    @property
    def _monitor(self) -> Monitor:
        api = self._service.api
        if self._made is None:
            # It brings torch, and a server that still loads its model answers without.
            from libertai_engine.monitoring import Monitor

            self._made = Monitor(api.chat_engine, embedder=api.embedder)
        return self._made
