"""Any JSON value in any field: what comes back is an answer or an error that names the field.

After each request the server is healthy, and a reference completion is what it was. The cases are
the same in every run; `LIBERTAI_FUZZ_EXAMPLES=5000` looks at that many new ones.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import load_engine
from libertai_engine.sampling_params import INT32_MAX, SAMPLERS
from libertai_engine.wire.fields import SAMPLING
from tests.engine.serving import REFERENCE, Reply, Running, running, timeless
from tests.fakes import save_tiny_model

CONTEXT = 64
LOOKED_AT = 8  # the reference completion is asked for after every so many requests
MAX_EXTRA_TOKENS = 3

DEEP = int(os.environ.get("LIBERTAI_FUZZ_EXAMPLES", "0"))


def thorough(examples: int) -> settings:
    """So many examples, always the same, or as many new ones as the environment asks for."""
    return settings(
        max_examples=DEEP or examples,
        derandomize=not DEEP,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


EDGES: list[Any] = [
    *(0, 1, -1, 2, -2, 3.9, -0.0, 0.5, 1e-46, -1e-300, 1e38, -1e38, 1.7e308, -1.7e308, 5e-324),
    *(99, 100, 101, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**53 + 1, 2**63, 10**30, 10**400),
    *(None, True, False, "", "5", "null", "\0", "\ud800", "</s>", "🙂", [], {}, [[]], [{}], [None]),
]
numbers = st.integers(-10, 500) | st.floats(-4, 4) | st.sampled_from([0, 1, -1, 0.5, 0.95, 1.0])
shares = st.floats(-0.5, 1.5) | st.sampled_from([0, 1, 0.05, 0.95, True, None])
penalties = st.floats(-2, 2)
words = st.text(max_size=8) | st.sampled_from(["a", " the", "\n", "e", "<|im_end|>", "é", "🙂"])
anything = st.sampled_from(EDGES) | st.recursive(
    numbers | words | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
token_ids = st.integers(0, 399)
pairs = st.tuples(token_ids | words, st.floats(-20, 20) | st.just(False))

Strategies = dict[str, st.SearchStrategy[Any]]

GRAMMARS = (
    'root ::= "yes" | "no"',
    "root ::= [a-z]+",
    'root ::= "{" [0-9]{1,3} "}" | ""',
    'root ::= root "a"',
    "root ::= (",
)
schemas = st.recursive(
    st.sampled_from([{}, True, {"type": "string"}, {"enum": [1, "é", None]}, {"maxLength": 3}]),
    lambda inner: (
        st.builds(
            lambda name, one, two: {
                "type": "object",
                "properties": {name: one},
                "anyOf": [two, {}],
            },
            words,
            inner,
            inner,
        )
        | st.builds(lambda one: {"type": "array", "items": one, "maxItems": 2}, inner)
        | st.builds(lambda one, two: {"oneOf": [one, two], "not": one}, inner, inner)
    ),
    max_leaves=4,
)

# What makes sense in each field; anything at all is tried in each of them, too.
OPTIONS: Strategies = {
    "temperature": st.floats(-1, 3),
    "top_k": st.integers(-1, 500),
    "top_p": shares,
    "min_p": shares,
    "tfs_z": shares,
    "typical_p": shares,
    "repeat_penalty": st.floats(0.01, 3),
    "repeat_last_n": st.integers(-1, 100),
    "penalize_nl": st.booleans(),
    "presence_penalty": penalties,
    "frequency_penalty": penalties,
    "mirostat": st.integers(0, 2),
    "mirostat_tau": st.floats(-1, 10),
    "mirostat_eta": st.floats(-1, 1),
    "seed": st.integers(-1, 2**32 - 1),
    "ignore_eos": st.booleans(),
    "n_probs": st.integers(0, 100),
    "samplers": st.lists(st.sampled_from(SAMPLERS[2:]), max_size=4) | st.text("edskfypmxt"),
    "min_keep": st.integers(0, 500),
    "dynatemp_range": st.floats(-1, 2),
    "dynatemp_exponent": st.floats(0, 3),
    "top_n_sigma": st.floats(-1, 4),
    "xtc_probability": st.floats(0, 1),
    "xtc_threshold": st.floats(0, 1),
    "dry_multiplier": st.floats(0, 5),
    "dry_base": st.floats(1, 3),
    "dry_allowed_length": st.integers(0, 9),
    "dry_penalty_last_n": st.integers(-1, 99),
    "dry_sequence_breakers": st.lists(words.filter(bool), max_size=3),
    "n_predict": st.integers(-1, 6),
    "n_keep": st.integers(-1, 80),
    "stop": words | st.lists(words, max_size=4),
    "logit_bias": st.lists(pairs, max_size=4)
    | st.dictionaries(words | token_ids.map(str), st.floats(-9, 9), max_size=3),
    "stream": st.booleans(),
    "cache_prompt": st.booleans(),
    "return_tokens": st.booleans(),
    "slot_id": st.integers(-1, 1),
    "id_slot": st.integers(-1, 1),
    "context_shift": st.booleans(),
    "grammar": st.sampled_from(["", *GRAMMARS]) | words,
    "json_schema": schemas,
    "compact_json": st.booleans(),
    "close_grammar": st.booleans(),
}
PROMPTS: Strategies = {
    "prompt": words.filter(bool)
    | st.lists(words | token_ids, min_size=1, max_size=6)
    | st.lists(words.filter(bool), min_size=1, max_size=3)
    | st.lists(st.lists(token_ids, min_size=1, max_size=3), min_size=1, max_size=3)
    | st.integers(1, 900).map(lambda length: [5] * length),
}
GAPS: Strategies = {
    "input_prefix": words,
    "input_suffix": words,
    "prompt": words,
    "input_extra": st.lists(st.fixed_dictionaries({"text": words}), max_size=2),
}
SPECIAL = ("system_prompt", "image_data")
OTHERS: dict[str, Strategies] = {
    "/tokenize": {
        "content": words,
        "add_special": st.booleans(),
        "parse_special": st.booleans(),
        "with_pieces": st.booleans(),
    },
    "/detokenize": {"tokens": st.lists(token_ids, max_size=9)},
    "/apply-template": {
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": words}),
            min_size=1,
            max_size=3,
        ),
        "add_generation_prompt": st.booleans(),
    },
}


def bodies(fields: Strategies, *more: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that make sense, half of them with anything at all in one or two fields."""
    sensible = st.fixed_dictionaries({}, optional=fields)
    names = st.sampled_from([*fields, *more])
    wild = st.just({}) | st.dictionaries(names, anything, min_size=1, max_size=2)
    return st.builds(lambda good, bad: {**good, **bad}, sensible, wild)


class Fuzzed:
    """A server under test. Counts the requests, to look at the reference now and then."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._reference = timeless(server.post("/completion", REFERENCE))
        self._num_asked = 0

    def ask(self, path: str, body: Any) -> Reply:
        """The reply, once it is known that nobody was harmed."""
        reply = self._server.post(path, body)
        assert self._server.get("/health").json == {"status": "ok"}
        self._num_asked += 1
        if self._num_asked % LOOKED_AT == 0:
            assert timeless(self._server.post("/completion", REFERENCE)) == self._reference
        return reply


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    """A model that can fill gaps, too, with so little context that nothing takes long."""
    names = ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")
    folder = save_tiny_model(tmp_path_factory.mktemp("fuzzed"), control_tokens=names)
    config = EngineConfig(
        model=str(folder), num_slots=2, batch_size=16, context_size=CONTEXT, threads=1
    )
    with load_engine(config, progress=False) as engine:
        api = CompletionAPI(engine, may_set_system_prompt=False)
        with running(api, request_timeout=20.0) as server:
            yield Fuzzed(server)


def test_every_option_is_tried() -> None:
    """A new sampler setting is fuzzed from its first day."""
    assert set(SAMPLING) <= set(OPTIONS)


@pytest.mark.parametrize(("path", "prompts"), [("/completion", PROMPTS), ("/infill", GAPS)])
def test_completions(fuzzed: Fuzzed, path: str, prompts: Strategies) -> None:
    """Whole or streamed, the answer keeps its promises, or the error says what is wrong."""
    statuses: Counter[int] = Counter()

    @given(body=bodies(OPTIONS | prompts, *SPECIAL))
    @thorough(300)
    def try_one(body: dict[str, Any]) -> None:
        body = bounded({"prompt": "a", "n_predict": 2} | body)
        reply = fuzzed.ask(path, body)
        statuses[reply.status] += 1
        if reply.status == 200:
            check_answer(reply, body)
        else:
            check_error(reply, body)

    try_one()
    assert min(statuses[200], statuses[400]) > sum(statuses.values()) / 6, statuses


@pytest.mark.parametrize("path", OTHERS)
def test_other_routes(fuzzed: Fuzzed, path: str) -> None:
    """They are as strict."""

    @given(body=bodies(OTHERS[path], "tools"))
    @thorough(60)
    def try_one(body: dict[str, Any]) -> None:
        reply = fuzzed.ask(path, body)
        if reply.status == 200:
            assert isinstance(strict_json(reply.body), dict)
        else:
            check_error(reply, {"messages": None} | body)

    try_one()


@given(body=anything)
@thorough(60)
def test_bodies_that_are_no_objects(fuzzed: Fuzzed, body: Any) -> None:
    """Anything may come as a body."""
    reply = fuzzed.ask("/completion", body)
    assert reply.status == 400 and reply.error["message"]


def bounded(body: dict[str, Any]) -> dict[str, Any]:
    """The body, made to end with the context: an answer that goes on is a test of patience."""
    limit = body.get("n_predict")
    is_long = isinstance(limit, (int, float)) and CONTEXT < limit <= INT32_MAX
    return {**body, "context_shift": False} if is_long else body


def strict_json(text: bytes) -> Any:
    """JSON without NaN and the like, which Python would read."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in an answer")

    return json.loads(text, parse_constant=refuse)


def check_error(reply: Reply, body: dict[str, Any]) -> None:
    """A refusal of the right class that names a field of the request."""
    assert reply.status in (400, 403, 501), (reply, body)
    error = reply.error
    message = error["message"]
    if error["type"] == "exceed_context_size_error":
        assert error["n_prompt_tokens"] >= error["n_ctx"] == CONTEXT
    elif message == "no token possible":
        assert body.get("logit_bias"), body
    elif message.startswith("failed to parse grammar: line "):
        assert body.get("grammar"), body
    else:
        assert any(f"`{name}" in message or f'"{name}"' in message for name in {"prompt", *body})


def check_answer(reply: Reply, body: dict[str, Any]) -> None:
    """One object, one for each prompt, or a stream whose prompts all end, if it has no error."""
    if reply.headers["content-type"].startswith("text/event-stream"):
        events = reply.events
        assert "error" in events[-1] or events[-1]["stop"]
        events = [event for event in events if "error" not in event]
    else:
        parsed = strict_json(reply.body)
        events = parsed if isinstance(parsed, list) else [parsed]
        assert all(event["stop"] for event in events)
    for event in events:
        assert isinstance(event["content"], str)
        check_probabilities(event.get("completion_probabilities", []))
        if event["stop"]:
            check_result(event, body)


def check_result(result: dict[str, Any], body: dict[str, Any]) -> None:
    """The final object: one reason, counts that fit, finite times."""
    flags = [result[f"stopped_{reason}"] for reason in ("eos", "limit", "word")]
    assert flags.count(True) == 1 and flags.count(False) == 2
    assert result["stopped_word"] == bool(result["stopping_word"])
    assert 0 <= result["tokens_cached"] <= CONTEXT
    limit = result["generation_settings"]["n_predict"]
    most = CONTEXT if limit < 0 or not body.get("context_shift", True) else limit
    assert 0 <= result["tokens_predicted"] <= most + MAX_EXTRA_TOKENS
    assert all(math.isfinite(value) and value >= 0 for value in result["timings"].values())


def check_probabilities(entries: list[dict[str, Any]]) -> None:
    """Between 0 and 1, falling, and together at most 1."""
    for entry in entries:
        probs = [each["prob"] for each in entry["probs"]]
        assert all(0 <= prob <= 1 + 1e-9 for prob in probs)
        assert sum(probs) <= 1 + 1e-6
        assert probs == sorted(probs, reverse=True)
