"""`/metrics` and `/slots`: off unless asked for, true figures, and never a text."""

from __future__ import annotations

import math
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from libertai_engine.api import CompletionAPI
from libertai_engine.cli import serve
from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_engine.monitoring import Monitor
from libertai_engine.sampling_params import SamplingParams
from libertai_engine.sequence import Request
from tests.engine.serving import Running, running, wait_until

COUNTERS = {
    "prompt_tokens_total",
    "prompt_seconds_total",
    "tokens_predicted_total",
    "tokens_predicted_seconds_total",
    "draft_tokens_total",
    "draft_tokens_accepted_total",
    "n_decode_total",
}
GAUGES = {
    "n_tokens_max",
    "n_busy_slots_per_decode",
    "prompt_tokens_seconds",
    "predicted_tokens_seconds",
    "requests_processing",
    "requests_deferred",
    "kv_cache_tokens",
    "kv_cache_usage_ratio",
}
SECRET = "Zanzibar"
ENDLESS = SamplingParams(ignore_eos=True)


@pytest.fixture(scope="module")
def own(long_model: Path) -> Iterator[Engine]:
    """An engine that only this module uses, so that its figures are known."""
    with load_engine(EngineConfig(model=str(long_model), num_slots=2), progress=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def watched(own: Engine) -> Iterator[Running]:
    with running(CompletionAPI(own), has_metrics=True, has_slots=True) as server:
        yield server


def metrics_of(server: Running) -> dict[str, float]:
    """Every sample, by its name without the prefix; the answer's form is checked."""
    reply = server.get("/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [
        sample
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
    ]
    assert all(sample.name.startswith("llamacpp:") and not sample.labels for sample in samples)
    return {sample.name.removeprefix("llamacpp:"): sample.value for sample in samples}


def complete(server: Running, **options: Any) -> dict[str, Any]:
    body = {"prompt": f"{SECRET} was", "temperature": 0, "n_predict": 6, "ignore_eos": True}
    reply = server.post("/completion", {**body, "cache_prompt": True, **options})
    assert reply.status == 200
    return dict(reply.json)


def test_off_unless_asked_for(server: Running) -> None:
    """501 that says which flag opens them."""
    for path, flag in (("/metrics", "--metrics"), ("/slots", "--slots")):
        reply = server.get(path)
        assert (reply.status, reply.error["type"]) == (501, "not_supported_error")
        assert flag in reply.error["message"]


def test_flags_open_them() -> None:
    """On the command line, each by its own."""
    parser = ArgumentParser()
    serve.add_arguments(parser)
    for argv, expected in (
        ([], (False, False)),
        (["--metrics"], (True, False)),
        (["--slots"], (False, True)),
    ):
        config = serve.server_config(parser.parse_args(argv))
        assert (config.has_metrics, config.has_slots) == expected


def test_a_key_is_asked_for(own: Engine) -> None:
    """Figures tell about users too."""
    options: dict[str, Any] = {"has_metrics": True, "has_slots": True, "api_keys": ("right",)}
    with running(CompletionAPI(own), **options) as server:
        for path in ("/metrics", "/slots"):
            assert server.get(path).status == 401
            assert server.get(path, Authorization="Bearer right").status == 200


def test_metrics_have_todays_names_and_are_finite(watched: Running, own: Engine) -> None:
    """Even before anything was asked: no division by zero."""
    metrics = metrics_of(watched)
    assert set(metrics) == COUNTERS | GAUGES
    assert all(math.isfinite(value) and value >= 0 for value in metrics.values())
    text = watched.get("/metrics").body.decode()
    for name in COUNTERS:
        assert f"# TYPE llamacpp:{name} counter\n" in text
    for name in GAUGES:
        assert f"# TYPE llamacpp:{name} gauge\n" in text


def test_counters_are_those_of_the_answers(watched: Running, own: Engine) -> None:
    """Prompt tokens that came from the cache are not counted as evaluated."""
    before = metrics_of(watched)
    first, second = complete(watched), complete(watched)
    after = metrics_of(watched)
    grown = {name: after[name] - before[name] for name in COUNTERS}
    assert second["timings"]["cache_n"] > 0
    evaluated = first["timings"]["prompt_n"] + second["timings"]["prompt_n"]
    assert grown["prompt_tokens_total"] == evaluated
    predicted = first["tokens_predicted"] + second["tokens_predicted"]
    assert grown["tokens_predicted_total"] == predicted
    num_accepted = grown["draft_tokens_accepted_total"]
    assert num_accepted <= grown["draft_tokens_total"]
    assert grown["n_decode_total"] == predicted - num_accepted
    assert grown["prompt_seconds_total"] > 0 and grown["tokens_predicted_seconds_total"] > 0
    for rate, count, seconds in (
        ("prompt_tokens_seconds", "prompt_tokens_total", "prompt_seconds_total"),
        ("predicted_tokens_seconds", "tokens_predicted_total", "tokens_predicted_seconds_total"),
    ):
        assert after[rate] == pytest.approx(after[count] / after[seconds])
    assert 1 <= after["n_busy_slots_per_decode"] <= own.num_slots
    assert after["n_tokens_max"] >= second["tokens_cached"]
    held = sum(slot["n_past"] for slot in watched.get("/slots").json)
    assert after["kv_cache_tokens"] == held > 0
    assert after["kv_cache_usage_ratio"] == pytest.approx(held / (2 * own.context_size))


def test_slots_say_how_far_they_are(watched: Running, own: Engine) -> None:
    """Busy ones move on, idle ones keep their cache; nothing of what anybody wrote is shown."""
    prompt_ids = tuple(own.tokenizer.encode(f"{SECRET} was", add_special=True))
    request = Request(prompt_ids=prompt_ids, slot=1, sampling=ENDLESS)
    with closing(own.submit(request)) as stream:
        next(stream)
        next(stream)
        reply = watched.get("/slots")
        idle, busy = reply.json
        assert [idle["id"], busy["id"]] == [0, 1]
        assert (idle["is_processing"], busy["is_processing"]) == (False, True)
        assert busy["n_prompt_tokens"] == len(prompt_ids) and busy["n_decoded"] >= 2
        assert busy["n_past"] >= len(prompt_ids) and busy["n_ctx"] == own.context_size
        assert SECRET not in reply.body.decode()
        assert watched.get("/slots?fail_on_no_slot=1").status == 200
    wait_until(lambda: own.load.num_running == 0)
    rested = watched.get("/slots").json[1]
    assert (rested["is_processing"], rested["n_decoded"]) == (False, 0)
    assert rested["n_past"] >= len(prompt_ids)


def test_what_runs_and_what_waits(watched: Running, own: Engine) -> None:
    """Both slots busy: one request waits, and who wants a free slot is sent away with 503."""
    prompt_ids = tuple(own.tokenizer.encode("a", add_special=True))
    request = Request(prompt_ids=prompt_ids, sampling=ENDLESS)
    with ExitStack() as stack:
        streams = [stack.enter_context(closing(own.submit(request))) for _ in range(3)]
        next(streams[0])
        next(streams[1])
        metrics = metrics_of(watched)
        assert (metrics["requests_processing"], metrics["requests_deferred"]) == (2, 1)
        refused = watched.get("/slots?fail_on_no_slot=1")
        assert (refused.status, refused.error["type"]) == (503, "unavailable_error")
        assert watched.get("/slots").status == watched.get("/slots?fail_on_no_slot=0").status == 200
    wait_until(lambda: own.load.num_running == own.load.num_waiting == 0)
    metrics = metrics_of(watched)
    assert (metrics["requests_processing"], metrics["requests_deferred"]) == (0, 0)
    assert watched.get("/slots?fail_on_no_slot=yes").status == 400


def test_engines_do_not_mix(own: Engine, engine: Engine) -> None:
    """Two in one process, each with figures of its own."""
    mine, other = Monitor(own), Monitor(engine)
    before = other.metrics()
    CompletionAPI(own).complete({"prompt": "a", "n_predict": 1})
    assert other.metrics() == before
    assert f"llamacpp:n_decode_total {own.totals.num_steps}.0".encode() in mine.metrics()
