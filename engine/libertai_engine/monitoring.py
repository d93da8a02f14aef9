"""What an operator may know of an engine: figures and slots, never a text.

In: an engine, an embedder. Out: metrics in Prometheus' text format, slots as JSON objects, both
under the names of today's llama-server.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from libertai_engine.embeddings import Embedder
from libertai_engine.engine import Engine
from libertai_engine.errors import NotSupported

PREFIX = "llamacpp:"
METRICS_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Monitor:
    """Looks at one engine, one embedder, or both from outside, without making them wait.

    Invariant: its registry is its own, so that several engines in a process do not mix.
    """

    def __init__(self, engine: Engine | None, *, embedder: Embedder | None = None) -> None:
        self._engine = engine
        self._registry = CollectorRegistry()
        if engine is not None:
            self._registry.register(_EngineCollector(engine))
        if embedder is not None:
            self._registry.register(_EmbedderCollector(embedder))

    def metrics(self) -> bytes:
        """`GET /metrics`, of content type `METRICS_TYPE`."""
        return generate_latest(self._registry)

    def slots(self) -> list[dict[str, Any]]:
        """`GET /slots`: how far each slot is. `n_past` counts the tokens in its lane.

        Raises `NotSupported` where nothing generates.
        """
        if self._engine is None:
            raise NotSupported("this server only embeds: it has no slots")
        return [
            {
                "id": slot.index,
                "is_processing": slot.is_busy,
                "n_ctx": self._engine.context_size,
                "n_past": slot.num_tokens,
                "n_prompt_tokens": slot.num_prompt_tokens,
                "n_decoded": slot.num_generated,
            }
            for slot in self._engine.slots
        ]


class _EngineCollector(Collector):
    """Reads the engine's counts whenever the metrics are asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """All metrics, as of now."""
        yield from self._counters()
        for name, (value, text) in self._gauges().items():
            yield GaugeMetricFamily(PREFIX + name, text, value=value)

    def _counters(self) -> Iterator[Metric]:
        totals = self._engine.totals
        counters: dict[str, tuple[float, str]] = {
            "prompt_tokens": (totals.num_prompt_tokens, "Prompt tokens evaluated."),
            "prompt_seconds": (totals.prompt_seconds, "Seconds spent on prompts."),
            "tokens_predicted": (totals.num_generated, "Tokens generated."),
            "tokens_predicted_seconds": (totals.generation_seconds, "Seconds spent on generating."),
            "draft_tokens": (totals.num_drafted, "Tokens guessed ahead."),
            "draft_tokens_accepted": (totals.num_accepted, "Tokens guessed ahead and right."),
            "n_decode": (totals.num_steps, "Steps of the model."),
        }
        for name, (value, text) in counters.items():  # their names get `_total` at the end
            yield CounterMetricFamily(PREFIX + name, text, value=value)

    def _gauges(self) -> dict[str, tuple[float, str]]:
        engine, totals, load = self._engine, self._engine.totals, self._engine.load
        num_cached = sum(slot.num_tokens for slot in engine.slots)
        num_places = engine.num_slots * engine.context_size
        return {
            "n_tokens_max": (totals.most_tokens, "Most tokens that a slot has held."),
            "n_busy_slots_per_decode": (
                _ratio(totals.num_busy_slots, totals.num_steps),
                "Sequences in a step, on average.",
            ),
            "prompt_tokens_seconds": (
                _ratio(totals.num_prompt_tokens, totals.prompt_seconds),
                "Prompt tokens a second, on average.",
            ),
            "predicted_tokens_seconds": (
                _ratio(totals.num_generated, totals.generation_seconds),
                "Generated tokens a second, on average.",
            ),
            "requests_processing": (load.num_running, "Requests that run now."),
            "requests_deferred": (load.num_waiting, "Requests that wait for a slot."),
            "kv_cache_tokens": (num_cached, "Tokens in all slots, those kept for reuse included."),
            "kv_cache_usage_ratio": (num_cached / num_places, "The same, of what they can hold."),
        }


class _EmbedderCollector(Collector):
    """Reads the embedder's counts whenever the metrics are asked for."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def collect(self) -> Iterator[Metric]:
        """All metrics, as of now."""
        totals = self._embedder.totals
        counters: dict[str, tuple[float, str]] = {
            "embedding_texts": (totals.num_texts, "Texts embedded."),
            "embedding_tokens": (totals.num_tokens, "Tokens of these texts."),
            "embedding_seconds": (totals.seconds, "Seconds spent on embedding."),
            "n_embedding_batches": (totals.num_steps, "Batches of texts."),
        }
        for name, (value, text) in counters.items():
            yield CounterMetricFamily(PREFIX + name, text, value=value)
        text = "Embedding requests that run or wait now."
        yield GaugeMetricFamily(PREFIX + "embedding_requests", text, value=self._embedder.num_open)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
