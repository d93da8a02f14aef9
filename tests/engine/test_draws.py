"""Sampling seen from outside: tokens come as often as they should, and a seed says which.

The expected distributions are those that the real server of December 2023 reported for the same
model (`cassettes/reference/`); the draws are ours, over HTTP.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from tests.engine.conformance.findings import first_probabilities
from tests.engine.conformance.recordings import load_recordings, serving_reference
from tests.engine.serving import Running

NUM_SLOTS = 4
NUM_DRAWS = 600
RECORDINGS = {recording.name: recording for recording in load_recordings()}
OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}
SAMPLERS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "none": OFF,
    "hot": {**OFF, "temperature": 1.8},
    "top_k": {**OFF, "top_k": 12},
    "top_p": {**OFF, "top_p": 0.8},
    "min_p": {**OFF, "min_p": 0.02},
    "tail-free": {**OFF, "tfs_z": 0.9},
    "typical": {**OFF, "typical_p": 0.7},
    "mirostat 1": {"mirostat": 1, "mirostat_tau": 3.0},
    "mirostat 2": {"mirostat": 2, "mirostat_tau": 3.0},
    "penalties": {**OFF, "repeat_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2},
    "top_n_sigma": {**OFF, "top_n_sigma": 2.0},
    "xtc": {**OFF, "xtc_probability": 0.5},
    "dry": {**OFF, "dry_multiplier": 0.8, "dry_allowed_length": 1},
    "dynamic": {**OFF, "dynatemp_range": 0.5},
    "order": {"samplers": ["temperature", "top_p", "top_k"]},
    "biases": {**OFF, "logit_bias": [[300, 3.0], ["the", False]]},
}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving_reference(256, NUM_SLOTS) as started:
        yield started


def text_of(server: Running, body: dict[str, Any]) -> str:
    reply = server.post("/completion", body)
    assert reply.status == 200, reply
    parts = reply.events if body.get("stream") else [reply.json]
    return "".join(part["content"] for part in parts)


def p_value(counts: Counter[str], expected: dict[str, float]) -> float:
    """Pearson's chi-square test: probability of counts at least as far off."""
    draws = sum(counts.values())
    statistic = sum((counts[t] - draws * p) ** 2 / (draws * p) for t, p in expected.items())
    half = torch.tensor([(len(expected) - 1) / 2, statistic / 2], dtype=torch.float64)
    return torch.special.gammaincc(half[0], half[1]).item()


@pytest.mark.parametrize("name", ["dist/top_k5/0", "dist/plain/1", "dist/bias/2", "dist/all/1"])
def test_tokens_come_as_often_as_the_real_server_said(server: Running, name: str) -> None:
    """One token a request, each with a seed of its own, four at a time."""
    recording = RECORDINGS[name]
    expected = {each["tok_str"]: each["prob"] for each in first_probabilities(recording.events)}
    rest = 1 - sum(expected.values())
    body = {**recording.body, "n_predict": 1, "stream": False, "n_probs": 0, "cache_prompt": True}
    with ThreadPoolExecutor(NUM_SLOTS) as pool:
        bodies = [{**body, "seed": seed} for seed in range(NUM_DRAWS)]
        drawn = list(pool.map(lambda each: text_of(server, each), bodies))
    counts = Counter(text if text in expected else "another" for text in drawn)
    assert (counts["another"] > 0) == (rest > 1e-3)
    if rest > 1e-3:
        expected["another"] = rest
    assert p_value(counts, expected) > 1e-3, (counts, expected)


@pytest.mark.parametrize("options", SAMPLERS.values(), ids=SAMPLERS)
def test_a_seed_decides_the_text(server: Running, options: dict[str, Any]) -> None:
    """In any slot, alone or beside others, whole or streamed, cached or not; and only that one."""
    body = {"prompt": "Create a", "n_predict": 20, "seed": 5, **options}
    alone = text_of(server, body)
    ways: list[dict[str, Any]] = [{"id_slot": slot} for slot in range(NUM_SLOTS)]
    ways += [{"stream": True}, {"cache_prompt": True}]
    neighbours = [{**body, "prompt": "This class", "seed": seed} for seed in range(len(ways))]
    with ThreadPoolExecutor(2 * len(ways)) as pool:
        others = pool.map(lambda each: text_of(server, each), neighbours)
        together = list(pool.map(lambda way: text_of(server, {**body, **way}), ways))
    assert together == [alone] * len(ways)
    assert len(set(others)) > 1
    assert [text_of(server, {**body, **way}) for way in ways] == together
    assert text_of(server, {**body, "seed": 6}) != alone
