"""Answers that are completed within their limit, whatever the model would go on to say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import load_engine
from libertai_engine.errors import ContextOverflow, InvalidRequest
from libertai_engine.wire.parse import Limits, parse_completion
from tests.engine.grammar.random_schemas import closed_schema
from tests.engine.serving import Running

PLAIN = {"temperature": 1.3, "top_k": 0, "top_p": 1, "min_p": 0, "repeat_penalty": 1}
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


@pytest.fixture(scope="module")
def api(long_model: Path) -> Iterator[CompletionAPI]:
    config = EngineConfig(model=str(long_model), context_size=256, threads=1)
    with load_engine(config, progress=False) as engine:
        yield CompletionAPI(engine)


def complete(api: CompletionAPI, **fields: Any) -> dict[str, Any]:
    result = api.complete({"prompt": "fill in", "seed": 7, **PLAIN, **fields})
    assert isinstance(result, dict)
    return result


def needed(api: CompletionAPI, schema: Any) -> int:
    """The smallest limit that is taken."""
    with pytest.raises(InvalidRequest, match="`n_predict` must be at least") as caught:
        complete(api, json_schema=schema, n_predict=1)
    assert caught.value.field == "n_predict"
    return int(str(caught.value).split("at least ")[1].split(",")[0])


def test_every_answer_is_whole_in_the_tightest_limits(api: CompletionAPI) -> None:
    """Random schemas and weights, limits from the smallest on: all of it parses and is valid."""
    closed: Counter[bool] = Counter()
    for seed in range(30):
        schema = closed_schema(1000 + seed)
        completion = api.engine.grammars.json_schema(schema).completion
        assert completion is not None
        for room in (0, 1, 2, 5, 17):
            limit = len(completion) + room
            result = complete(api, json_schema=schema, n_predict=limit, seed=seed)
            assert result["tokens_predicted"] <= limit and result["stopped_eos"]
            value = json.loads(result["content"])
            jsonschema.Draft202012Validator(schema).validate(value)
            closed[result.get("grammar_closed", False)] += 1
    assert closed[True] > 20 and closed[False] > 20


def test_too_small_a_limit_is_refused_with_the_number(api: CompletionAPI) -> None:
    """That many tokens are then enough; without closing the answer is cut, as ever."""
    limit = needed(api, TEXT)
    whole = complete(api, json_schema=TEXT, n_predict=limit)
    assert whole["stopped_eos"] and json.loads(whole["content"]).keys() == {"text"}
    cut = complete(api, json_schema=TEXT, n_predict=limit - 1, close_grammar=False)
    assert cut["stopped_limit"] and "grammar_closed" not in cut
    assert complete(api, json_schema=TEXT, n_predict=0)["tokens_predicted"] == 0


def test_what_is_known_to_complete_an_answer_is_short(api: CompletionAPI) -> None:
    """Behind a digit comes what may end the number, not all other digits."""
    numbers = {"type": "array", "items": {"type": "integer"}, "minItems": 4}
    schema = {"type": "object", "properties": {"n": numbers}, "required": ["n"]}
    assert needed(api, schema) <= len('{"n": [0, 1, 2, 3]}')


@pytest.mark.parametrize("name", ["email", "date-time", "uuid", "ipv4", "uri", "hostname"])
def test_formats_can_be_completed(api: CompletionAPI, name: str) -> None:
    """Also those whose text goes on for ever unless a certain sign is found."""
    limit = needed(api, {"type": "string", "format": name})
    result = complete(api, json_schema={"type": "string", "format": name}, n_predict=limit, **PLAIN)
    assert result["stopped_eos"] and limit < 60
    json.loads(result["content"])


def test_grammars_are_closed_when_asked(api: CompletionAPI) -> None:
    """By default they are cut, as by llama.cpp's server."""
    grammar = 'root ::= "(" [a-z]+ ("," [a-z]+)* ") end"'
    cuts = [complete(api, grammar=grammar, n_predict=12, seed=seed) for seed in range(20)]
    assert any(cut["stopped_limit"] for cut in cuts)
    for seed in range(20):
        whole = complete(api, grammar=grammar, n_predict=12, seed=seed, close_grammar=True)
        assert whole["stopped_eos"] and whole["content"].endswith(") end")
    with pytest.raises(InvalidRequest, match="`n_predict`"):
        complete(api, grammar=grammar, n_predict=3, close_grammar=True)


def test_the_way_to_complete_an_answer_is_looked_for_outside_the_event_loop(
    api: CompletionAPI,
) -> None:
    """Where bodies are read; the engine, which an event loop calls, finds it there."""
    grammar = 'root ::= "looked for" [0-9]{9}'
    fields = {"prompt": "a", "n_predict": 50, "grammar": grammar, "close_grammar": True}
    limits = Limits(num_slots=1, context_size=256, grammars=api.engine.grammars)
    call = parse_completion(fields, api.engine.tokenizer, limits)
    assert "completion" in vars(call.requests[0].grammar)


def test_an_answer_that_fits_is_left_alone(api: CompletionAPI) -> None:
    """The same tokens as without the wish."""
    fields = {"json_schema": {"type": "array", "items": {"enum": ["one", "two"]}, "maxItems": 3}}
    for seed in range(10):
        free = complete(api, seed=seed, n_predict=100, close_grammar=False, **fields)
        closed = complete(api, seed=seed, n_predict=100, **fields)
        assert free["content"] == closed["content"] and "grammar_closed" not in closed


def test_streams_and_stop_words(api: CompletionAPI) -> None:
    """What completes the answer is streamed, and a stop word in it ends it."""
    fields = {"json_schema": TEXT, "n_predict": 30, "seed": 3, "prompt": "fill in", **PLAIN}
    whole = complete(api, **fields)
    assert whole["grammar_closed"]
    *chunks, last = api.stream(fields)
    assert "".join(chunk["content"] for chunk in chunks) == whole["content"]
    assert last["grammar_closed"]
    stopped = complete(api, **fields, stop=["}"])
    assert stopped["stopping_word"] == "}"
    assert stopped["content"] == whole["content"].partition("}")[0]


def test_the_context_is_a_limit_too(api: CompletionAPI) -> None:
    """Where it cannot be shifted; a prompt that leaves no room for any answer is refused."""
    fields = {"json_schema": TEXT, "context_shift": False, "close_grammar": True}
    result = complete(api, prompt=[5] * 200, n_predict=-1, **fields, logit_bias=[['"', -20]])
    assert json.loads(result["content"]) and result["tokens_predicted"] <= 56
    with pytest.raises(ContextOverflow):
        complete(api, prompt=[5] * 250, n_predict=100, **fields)


def test_an_answer_without_a_limit_ends_with_the_context(api: CompletionAPI) -> None:
    """It is never shifted, so a prompt that leaves no room for a whole one is refused."""
    fields = {"json_schema": TEXT, "n_predict": -1, "close_grammar": True}
    limit = needed(api, TEXT)
    with pytest.raises(ContextOverflow):
        complete(api, prompt=[5] * (256 - limit + 1), **fields)
    result = complete(api, prompt=[5] * (256 - limit), **fields)
    assert result["stopped_eos"] and json.loads(result["content"]).keys() == {"text"}


def test_probabilities_are_not_made_up(api: CompletionAPI) -> None:
    """Where they are told, every token is sampled, and the answer may be cut."""
    result = complete(api, json_schema=TEXT, n_predict=20, n_probs=2, seed=1)
    assert len(result["completion_probabilities"]) >= 20
    assert all(entry["probs"] for entry in result["completion_probabilities"])


def test_openai_answers_are_closed(server: Running) -> None:
    """A limit and a response format: the answer is whole, and says `stop`."""
    described = {"type": "json_schema", "json_schema": {"name": "x", "schema": TEXT}}
    body = {"messages": [{"role": "user", "content": "hi"}], "response_format": described}
    reply = server.post("/v1/chat/completions", {**body, "max_tokens": 25, "temperature": 1.3})
    (choice,) = reply.json["choices"]
    jsonschema.validate(json.loads(choice["message"]["content"]), TEXT)
    assert choice["finish_reason"] == "stop"
    assert server.post("/v1/chat/completions", {**body, "max_tokens": 2}).status == 400
