"""Answers held to a grammar: whole, streamed, batched, cached, forced or not, always the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_engine.errors import EngineError, InvalidRequest
from libertai_engine.sampling_params import SamplingParams
from libertai_engine.sequence import Request
from tests.engine.byte_model import MISSING, save_byte_model
from tests.engine.serving import Running

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "flavour": {"enum": ["strawberry", "strange"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "flavour", "count"],
}
LIST = 'root ::= ("- " [a-z]{2,5} "\\n"){2}'
ANSWER = {"prompt": "tell me", "n_predict": 200, "seed": 5, "repeat_penalty": 1.0}
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "filtered": {"temperature": 1.2},
    "plain": {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0},
    "penalised": {"temperature": 0, "repeat_penalty": 1.5, "frequency_penalty": 1},
    "mirostat": {"mirostat": 2},
}
KINDS: dict[str, dict[str, Any]] = {
    "schema": {"json_schema": SCHEMA},
    "compact schema": {"json_schema": SCHEMA, "compact_json": True},
    "grammar": {"grammar": LIST},
}


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_model(tmp_path_factory.mktemp("byte_model"))


@pytest.fixture(scope="module")
def byte_api(byte_model: Path) -> Iterator[CompletionAPI]:
    """An engine that forces tokens, on a model whose texts are always the same tokens."""
    with load_engine(EngineConfig(model=str(byte_model), threads=1), progress=False) as loaded:
        yield CompletionAPI(loaded)


@pytest.fixture(scope="module")
def patient_api(byte_model: Path) -> Iterator[CompletionAPI]:
    """The same model, every token sampled."""
    config = EngineConfig(model=str(byte_model), threads=1, forces_tokens=False)
    with load_engine(config, progress=False) as loaded:
        yield CompletionAPI(loaded)


@pytest.fixture(scope="module")
def api(engine: Engine) -> CompletionAPI:
    """An engine with merges and byte fallback, where a text may be many token sequences."""
    return CompletionAPI(engine)


def complete(api: CompletionAPI, **fields: Any) -> dict[str, Any]:
    result = api.complete({**ANSWER, **fields})
    assert isinstance(result, dict)
    return result


def essence(result: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on how the answer was made."""
    names = ("content", "stop_type", "tokens_predicted", "tokens", "stopping_word", "truncated")
    return {name: result[name] for name in names if name in result}


def check(result: dict[str, Any], fields: dict[str, Any]) -> None:
    """The answer is complete and a text of its grammar."""
    assert result["stopped_eos"], result
    if "json_schema" in fields:
        jsonschema.validate(json.loads(result["content"]), fields["json_schema"])
    else:
        lines = result["content"].split("\n")
        assert len(lines) == 3 and all(line.startswith("- ") for line in lines[:2])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_forced_or_sampled_the_answer_is_the_same(
    byte_api: CompletionAPI, patient_api: CompletionAPI, kind: str, way: str
) -> None:
    """Where the tokenizer leaves no choice: token by token, whatever the sampling."""
    fields = {**KINDS[kind], **WAYS[way], "return_tokens": True}
    forced, sampled = complete(byte_api, **fields), complete(patient_api, **fields)
    check(forced, fields)
    assert essence(forced) == essence(sampled)


def test_forcing_saves_steps(byte_api: CompletionAPI, patient_api: CompletionAPI) -> None:
    """A third of the tokens of this answer, or fewer, are sampled."""
    steps = []
    for api in (byte_api, patient_api):
        before = api.engine.totals
        fields = {"speculative.n_max": 0, "temperature": 0, **KINDS["compact schema"]}
        result = complete(api, cache_prompt=True, **fields)
        after = api.engine.totals
        assert after.num_generated - before.num_generated == result["tokens_predicted"]
        steps.append(after.num_steps - before.num_steps)
    assert steps[0] < steps[1] / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["tell me", "a", "The capital of France"])
def test_every_token_is_forced_or_the_best_that_is_allowed(
    api: CompletionAPI, kind: str, text: str, long_model: Path
) -> None:
    """The model is asked again, by transformers: nothing else ever comes into a greedy answer."""
    from transformers import AutoModelForCausalLM

    engine = api.engine
    fields = {"prompt": text, "temperature": 0, "return_tokens": True, **KINDS[kind]}
    token_ids = complete(api, **fields)["tokens"]
    prompt_ids = engine.tokenizer.encode(text, add_special=True)
    module = AutoModelForCausalLM.from_pretrained(long_model)
    with torch.no_grad():
        logits = module(torch.tensor([[*prompt_ids, *token_ids]])).logits[0]  # [tokens, vocab]
    grammars = engine.grammars
    compiled = (
        grammars.gbnf(LIST)
        if kind == "grammar"
        else grammars.json_schema(SCHEMA, is_compact="compact" in kind)
    )
    matcher, following, num_forced = compiled.matcher(), list[int](), 0
    for index, token_id in enumerate(token_ids):
        if following:
            assert token_id == following.pop(0)
            num_forced += 1
        else:
            row = logits[len(prompt_ids) + index - 1].clone()
            matcher.mask(row)
            assert token_id == int(row.argmax())
        matcher.accept(token_id)
        # Nothing is forced at the beginning: the first token is sampled with the prompt.
        following = following or matcher.forced(500)
    assert matcher.is_finished and num_forced > 0


def test_streams_tell_the_same(api: CompletionAPI, byte_api: CompletionAPI) -> None:
    """Forced text comes at once; all chunks together are the answer and its tokens."""
    for each in (api, byte_api):
        for kind in KINDS.values():
            fields = {**kind, "return_tokens": True, "temperature": 0}
            whole = complete(each, **fields)
            chunks = list(each.stream({**ANSWER, **fields}))
            assert "".join(chunk["content"] for chunk in chunks) == whole["content"]
            tokens = [token for chunk in chunks for token in chunk["tokens"]]
            assert tokens == whole["tokens"]
            assert len(chunks) < len(tokens)
            assert each.engine.tokenizer.decode(tokens) == whole["content"]


def test_cached_or_not(api: CompletionAPI) -> None:
    """Whatever of the prompt, or of forced text of the same answer before, lies in the slot."""
    for fields in KINDS.values():
        answers = [
            essence(complete(api, temperature=0, cache_prompt=cached, **fields))
            for cached in (True, True, False, True)
        ]
        assert answers == [answers[0]] * 4


def test_what_was_not_evaluated_is_not_in_the_cache(api: CompletionAPI) -> None:
    """An answer that ends in forced text: the next prompt finds what was evaluated, no more."""
    fields = {"grammar": 'root ::= [a-z] "and nothing else at all"', "temperature": 0}
    first = complete(api, cache_prompt=True, return_tokens=True, id_slot=1, **fields)
    num_prompt = first["tokens_evaluated"]
    assert first["tokens_cached"] == num_prompt < num_prompt + first["tokens_predicted"] - 1
    ids = api.engine.tokenizer.encode(ANSWER["prompt"], add_special=True)
    after = {"prompt": [*ids, *first["tokens"], 9], "n_predict": 4, "temperature": 0}
    again = complete(api, cache_prompt=True, id_slot=1, **after)
    assert again["timings"]["cache_n"] == num_prompt
    assert again["content"] == complete(api, cache_prompt=False, id_slot=0, **after)["content"]


def test_many_grammars_in_one_batch(api: CompletionAPI, byte_api: CompletionAPI) -> None:
    """Beside each other, and beside free answers: each as alone, also in event loops."""
    bodies = [
        {**ANSWER, **fields, **way, "seed": seed}
        for seed, way in enumerate([WAYS["greedy"], WAYS["filtered"], WAYS["plain"]])
        for fields in (*KINDS.values(), {"grammar": f"root ::= [0-9]{{{seed + 1}}}"}, {})
    ]
    for body in bodies:
        body["n_predict"] = 60

    async def together(api: CompletionAPI) -> list[Any]:
        return await asyncio.gather(*(api.acomplete(body) for body in bodies))

    for each in (api, byte_api):
        alone = [essence(each.complete(body)) for body in bodies]  # type: ignore[arg-type]
        assert [essence(result) for result in asyncio.run(together(each))] == alone


def test_http_answers_the_same(server: Running, api: CompletionAPI) -> None:
    """Bytes and framing are all that is added; several prompts share the grammar."""
    body = {**ANSWER, "prompt": ["one", "two"], "temperature": 0, "json_schema": SCHEMA}
    there = server.post("/completion", body).json
    here = api.complete(body)
    assert isinstance(here, list) and [*map(essence, there)] == [*map(essence, here)]
    for each in there:
        check(each, body)
        assert each["generation_settings"]["json_schema"] == SCHEMA
        assert each["generation_settings"]["grammar"] == ""
    events = server.post("/completion", {**body, "prompt": "one", "stream": True}).events
    assert "".join(event["content"] for event in events) == here[0]["content"]
    echoed = server.post("/completion", {**ANSWER, "grammar": LIST}).json
    assert echoed["generation_settings"]["grammar"] == LIST


def test_an_answer_ends_with_its_grammar(api: CompletionAPI) -> None:
    """At once where nothing can follow; by an end token where more could."""
    only = complete(api, grammar='root ::= "only this"', return_tokens=True)
    assert only["content"] == "only this" and only["stopped_eos"]
    assert only["tokens_predicted"] == len(only["tokens"])
    ending = complete(api, grammar="root ::= [a-z]*", temperature=1.5, return_tokens=True)
    assert ending["stopped_eos"] and ending["tokens_predicted"] == len(ending["tokens"]) + 1
    ids = api.engine.tokenizer.eos_ids
    assert complete(api, grammar='root ::= ""', n_predict=3)["content"] == ""
    banned = [[token_id, False] for token_id in range(api.engine.tokenizer.vocab_size)]
    kept = [pair for pair in banned if pair[0] not in ids]
    assert complete(api, grammar="root ::= [a-z]*", logit_bias=kept)["content"] == ""


@pytest.mark.parametrize("way", WAYS)
def test_end_tokens_that_are_ignored(api: CompletionAPI, way: str) -> None:
    """The answer then ends where it is complete and nothing can follow, or at the limit."""
    fields = {**WAYS[way], "ignore_eos": True, "n_predict": 30}
    empty = complete(api, grammar='root ::= ""', **fields)
    assert (empty["content"], empty["stop_type"], empty["tokens_predicted"]) == ("", "eos", 0)
    assert complete(api, grammar='root ::= "a" | "bc"', **fields)["content"] in ("a", "bc")
    endless = complete(api, grammar="root ::= [a-z]*", **fields)
    assert endless["stopped_limit"] and endless["tokens_predicted"] == 30


def test_no_token_left_is_that_requests_error(api: CompletionAPI) -> None:
    """Bans that leave nothing before the answer is complete; where it is, that is its end."""
    tokenizer = api.engine.tokenizer
    ids = range(tokenizer.vocab_size)
    letters = [[each, False] for each in ids if b"b" in tokenizer.token_bytes(each).lower()]
    with pytest.raises(InvalidRequest, match="no token possible"):
        complete(api, grammar='root ::= "a" [bB] "c"', logit_bias=letters)
    every = [[each, False] for each in ids]
    ended = complete(api, grammar='root ::= "x"?', logit_bias=every)
    assert (ended["content"], ended["stop_type"]) == ("", "eos")


def test_what_the_vocabulary_cannot_spell(byte_api: CompletionAPI) -> None:
    """That request fails, the one beside it does not."""
    bad = {**ANSWER, "grammar": f'root ::= [a-c] "{MISSING}"'}
    good = {**ANSWER, "grammar": LIST}

    async def both() -> list[Any]:
        calls = (byte_api.acomplete(bad), byte_api.acomplete(good))
        return await asyncio.gather(*calls, return_exceptions=True)

    failed, answered = asyncio.run(both())
    assert isinstance(failed, InvalidRequest) and failed.field == "grammar"
    assert "no token of this model" in str(failed)
    assert essence(answered) == essence(complete(byte_api, grammar=LIST))


@pytest.mark.parametrize("limit", range(1, 12))
def test_the_number_of_tokens_is_exact(byte_api: CompletionAPI, limit: int) -> None:
    """Forced text is cut at the limit, too."""
    grammar = 'root ::= "abc" [x-z] "defghi"'
    result = complete(byte_api, grammar=grammar, n_predict=limit, return_tokens=True)
    assert result["tokens_predicted"] == len(result["tokens"]) == min(limit, 10)
    assert result["stop_type"] == ("limit" if limit < 10 else "eos")


def test_stop_words_inside_forced_text(byte_api: CompletionAPI, patient_api: CompletionAPI) -> None:
    """The answer ends before them, and tokens behind them are not counted."""
    grammar = 'root ::= [a-b] " one two three"'
    for stop in ([" two"], ["o t", "three"], ["a", "b"], ["e"], ["never"]):
        forced = complete(byte_api, grammar=grammar, stop=stop, return_tokens=True)
        sampled = complete(patient_api, grammar=grammar, stop=stop, return_tokens=True)
        assert essence(forced) == essence(sampled)


@pytest.mark.parametrize("field", ["n_probs", "logprobs"])
def test_told_probabilities_are_those_of_every_token(engine: Engine, field: str) -> None:
    """Then nothing is forced: each token has the probability with which it was sampled."""
    sampling = SamplingParams(
        temperature=0.0,
        num_probs=2 if field == "n_probs" else 0,
        num_logprobs=None if field == "n_probs" else 1,
    )
    request = Request(
        prompt_ids=(1, 5, 9),
        sampling=sampling,
        max_tokens=80,
        grammar=engine.grammars.json_schema(SCHEMA, is_compact=True),
    )
    deltas = list(engine.submit(request))
    tokens = [token for delta in deltas for token in delta.tokens]
    assert max(len(delta.tokens) for delta in deltas) <= 4  # one, or a character of several
    for token in tokens:
        if field == "n_probs":
            assert token.probs and token.probs[0][0] == token.token_id
        else:
            assert token.logprobs is not None and token.logprobs.chosen <= 0


def test_the_context_ends_inside_forced_text(byte_model: Path) -> None:
    """At its last position; with a shift the text goes on, as if every token had been sampled."""
    grammar = 'root ::= ([x-z] " and so on and on it goes ")*'
    answers = []
    for forces in (True, False):
        config = EngineConfig(
            model=str(byte_model), threads=1, context_size=40, num_slots=1, forces_tokens=forces
        )
        with load_engine(config, progress=False) as engine:
            api = CompletionAPI(engine)
            fields = {"grammar": grammar, "temperature": 0, "return_tokens": True}
            ended = complete(api, context_shift=False, **fields)
            assert ended["truncated"] and ended["stopped_limit"]
            assert ended["tokens_evaluated"] + ended["tokens_predicted"] == 40
            shifted = complete(api, n_predict=90, ignore_eos=True, **fields)
            assert shifted["truncated"] and shifted["tokens_predicted"] == 90
            answers.append((essence(ended), essence(shifted)))
    assert answers[0] == answers[1]


def test_without_a_slot_for_more_than_a_prompt(byte_api: CompletionAPI) -> None:
    """`n_predict` 0 only evaluates."""
    result = complete(byte_api, grammar='root ::= "a"', n_predict=0)
    assert (result["content"], result["tokens_predicted"]) == ("", 0)


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"grammar": "root ::= x"}, "grammar", "line 1"),
    ({"grammar": 5}, "grammar", "a string"),
    ({"grammar": 'root ::= "a"', "json_schema": {}}, "grammar", "exclude"),
    ({"json_schema": 5}, "json_schema", "object"),
    ({"json_schema": False}, "json_schema", "nothing"),
    ({"json_schema": {"not": {}}}, "json_schema", "#/not"),
    ({"json_schema": {}, "compact_json": "yes"}, "compact_json", "true or false"),
]


@pytest.mark.parametrize(("fields", "field", "reason"), WRONG, ids=str)
def test_wrong_fields(api: CompletionAPI, fields: dict[str, Any], field: str, reason: str) -> None:
    """Refused before anything runs, by name."""
    with pytest.raises(EngineError, match=reason) as caught:
        complete(api, **fields)
    assert isinstance(caught.value, InvalidRequest) and caught.value.field == field
    assert complete(api, grammar="", json_schema=None, n_predict=1)["tokens_predicted"] == 1


FORMATS: list[tuple[Any, Any]] = [
    ({"type": "json_object"}, {"type": "object"}),
    ({"type": "json_object", "schema": SCHEMA}, SCHEMA),
    ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, SCHEMA),
    ({"type": "json_schema", "json_schema": {"strict": True, "schema": SCHEMA}}, SCHEMA),
]


@pytest.mark.parametrize(("response_format", "schema"), FORMATS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_response_formats(server: Running, path: str, response_format: Any, schema: Any) -> None:
    """What OpenAI's clients ask for, on both routes, with every choice and in streams."""
    asked = {"messages": [{"role": "user", "content": "hi"}]} if "chat" in path else {"prompt": "a"}
    body = {**asked, "response_format": response_format, "seed": 3, "n": 2, "max_tokens": 300}
    reply = server.post(path, {**body, "compact_json": True})
    assert reply.status == 200, reply
    for choice in reply.json["choices"]:
        text = choice["message"]["content"] if "chat" in path else choice["text"]
        if choice["finish_reason"] == "stop":
            jsonschema.validate(json.loads(text), schema)
        else:
            assert "properties" not in schema, "only free objects go on so long"
    for fields in ({"response_format": {"type": "json_schema"}}, {"grammar": LIST}):
        refused = server.post(path, {**body, **fields})
        assert refused.status == 400
        assert refused.json["error"]["param"].startswith("response_format")
    free = server.post(path, {**body, "response_format": {"type": "text"}, "grammar": LIST})
    assert free.status == 200
