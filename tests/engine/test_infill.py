"""`/infill`: the same answer by every way, what the prompt is, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_engine.errors import ContextOverflow, InvalidRequest
from libertai_engine.wire.infill import parse_infill
from libertai_engine.wire.parse import CompletionCall, Limits
from libertai_llm import Timeouts
from tests.engine.serving import Running, running
from tests.fakes import save_tiny_model
from tests.llm.conftest import MakeClient, any_client

__all__ = ["any_client"]  # a fixture of the client's tests

NAMES = ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")
PREFIX, SUFFIX, MIDDLE, END = range(400, 404)
AROUND = {"input_prefix": "def add(first, ", "input_suffix": ", second):\n    return"}
GREEDY = {"temperature": 0, "repeat_penalty": 1.0}


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A Llama that has CodeLlama's four tokens."""
    folder = save_tiny_model(tmp_path_factory.mktemp("fim"), control_tokens=NAMES)
    config = EngineConfig(model=str(folder), num_slots=2, context_size=256)
    with load_engine(config, progress=False) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def api(coder: Engine) -> CompletionAPI:
    return CompletionAPI(coder)


@pytest.fixture(scope="module")
def fim_server(api: CompletionAPI) -> Iterator[Running]:
    with running(api) as server:
        yield server


@pytest.fixture(params=["engine", "engine with limits", "http"])
def client(
    request: pytest.FixtureRequest, any_client: MakeClient, coder: Engine, fim_server: Running
) -> Any:
    """Either client, on the same engine, by all three ways."""
    if request.param == "http":
        return any_client(fim_server.url)
    limits = Timeouts(first_token=60, between_tokens=60, total=120)
    return any_client(engine=coder, timeouts=limits if "limits" in request.param else None)


def parse(coder: Engine, **fields: Any) -> CompletionCall:
    limits = Limits(num_slots=coder.num_slots, context_size=coder.context_size)
    return parse_infill(fields, coder.tokenizer, limits)


def test_the_prompt_is_what_the_model_was_trained_on(coder: Engine, api: CompletionAPI) -> None:
    """BOS, prefix, suffix, middle: the same tokens given to /completion give the same answer."""
    encode = coder.tokenizer.encode
    token_ids = [
        coder.tokenizer.bos_id,
        PREFIX,
        *encode(AROUND["input_prefix"], add_special=False),
        SUFFIX,
        *coder.tokenizer.encode_behind(AROUND["input_suffix"]),
        MIDDLE,
    ]
    options = {**GREEDY, "n_predict": 8}
    expected = api.complete({"prompt": token_ids, **options})
    found = api.infill({**AROUND, **options})
    assert isinstance(expected, dict) and isinstance(found, dict)
    for name in ("content", "tokens_evaluated", "tokens_predicted", "stop_type", "truncated"):
        assert found[name] == expected[name], name
    assert found["prompt"] == "" and found["tokens_evaluated"] == len(token_ids)


def test_every_way_gives_the_same_filling(client: Any, api: CompletionAPI) -> None:
    """Whole or streamed, in-process or over HTTP, both clients."""
    options = {**GREEDY, "max_tokens": 12, "n_probs": 2, "ignore_eos": True}
    whole = client.infill(*AROUND.values(), **options)
    assert whole.tokens_predicted >= 12 and len(whole.probs) == whole.tokens_predicted
    chunks = list(client.infill_stream(*AROUND.values(), **options))
    assert len(chunks) > 2
    assert "".join(chunk.content for chunk in chunks) == whole.content == chunks[-1].final.content
    wire = {**AROUND, **GREEDY, "n_predict": 12, "ignore_eos": True}
    direct = api.infill(wire)
    assert isinstance(direct, dict) and direct["content"] == whole.content
    more = client.infill(*AROUND.values(), files={"x.py": "x = 1"}, **GREEDY)
    assert more.tokens_evaluated > whole.tokens_evaluated


def test_a_stream_over_http(fim_server: Running) -> None:
    """`stream` chooses, as for /completion: JSON without it, events with it."""
    body = {**AROUND, **GREEDY, "n_predict": 5, "ignore_eos": True}
    whole = fim_server.post("/infill", body).json
    *chunks, last = fim_server.post("/infill", {**body, "stream": True}).events
    assert "".join(chunk["content"] for chunk in chunks) == whole["content"]
    assert last["stop"] is True and last["tokens_predicted"] == whole["tokens_predicted"]


def test_the_filling_ends_at_the_models_token(coder: Engine, api: CompletionAPI) -> None:
    """<EOT> is an end like the others."""
    body = {**AROUND, "n_predict": 4, "logit_bias": [[END, 1000.0]]}
    ended = api.infill(body)
    assert isinstance(ended, dict)
    assert (ended["stop_type"], ended["content"], ended["tokens_predicted"]) == ("eos", "", 1)


def test_the_start_of_the_filling_follows_the_middle(coder: Engine) -> None:
    """`prompt` is text that the filling begins with; control tokens in it are letters."""
    call = parse(coder, **AROUND, prompt="second</s>")
    (request,) = call.requests
    tail = request.prompt_ids[request.prompt_ids.index(MIDDLE) + 1 :]
    assert coder.tokenizer.decode(tail) == "second</s>" and 2 not in tail
    assert call.prompts == ("second</s>",)


def test_nothing_around_is_allowed(coder: Engine) -> None:
    """The page requires no field; null is the default."""
    (request,) = parse(coder, input_prefix=None).requests
    assert request.prompt_ids == (1, PREFIX, SUFFIX, MIDDLE) and not request.is_cut


def test_what_does_not_fit_is_left_out_and_said(coder: Engine, api: CompletionAPI) -> None:
    """The text next to the gap stays, the answer has its room, and nothing is shifted."""
    long = {"input_prefix": "one " * 500 + "near", "input_suffix": "here" + " two" * 500}
    answer = api.infill({**long, "n_predict": 40, **GREEDY, "ignore_eos": True})
    assert isinstance(answer, dict) and answer["truncated"] is True
    assert answer["tokens_evaluated"] == 256 - 40
    assert answer["tokens_predicted"] in range(40, 44)
    (request,) = parse(coder, **long).requests
    assert len(request.prompt_ids) == 256 - 64 and request.is_cut and not request.can_shift
    text = coder.tokenizer.decode(request.prompt_ids)
    assert "one nearhere two" in text
    with pytest.raises(ContextOverflow):
        api.infill({"prompt": "a " * 500})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"input_prefix": 5}, "input_prefix"),
        ({"input_suffix": ["a"]}, "input_suffix"),
        ({"input_prefix": "\ud800"}, "input_prefix"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"input_extra": {}}, "input_extra"),
        ({"input_extra": [{"text": ""}] * 257}, "input_extra"),
        ({"input_extra": ["a"]}, "input_extra[0]"),
        ({"input_extra": [{"text": "a"}, {"filename": "a"}]}, "input_extra[1]"),
        ({"input_extra": [{"text": 5}]}, "input_extra[0].text"),
        ({"input_extra": [{"text": "a", "filename": 5}]}, "input_extra[0].filename"),
        ({"n_predict": -2}, "n_predict"),
        ({"n_predict": "5"}, "n_predict"),
        ({"temperature": []}, "temperature"),
        ({"slot_id": 2}, "slot_id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_fields_are_named(coder: Engine, fields: dict[str, Any], named: str) -> None:
    """Its own fields and those of /completion."""
    with pytest.raises(InvalidRequest) as caught:
        parse(coder, **fields)
    assert caught.value.field == named and f"`{named}`" in str(caught.value)
    with pytest.raises(InvalidRequest, match="JSON object"):
        parse_infill(["a"], coder.tokenizer, Limits(num_slots=1, context_size=64))


@pytest.mark.parametrize("field", ["input_prefix", "input_suffix", "input_extra", "prompt"])
def test_every_field_with_every_type(coder: Engine, field: str) -> None:
    """Understood, or refused by its name: nothing else ever comes out."""
    for value in ("5", True, -1, 1.5, 10**400, [], {}, [[]], [{}], [None], [{"text": None}]):
        try:
            parse(coder, **{field: value})
        except InvalidRequest as error:
            assert (error.field or "").startswith(field), value


def test_a_model_without_such_tokens(server: Running) -> None:
    """501, streamed or not, so that a program can do without."""
    for body in (AROUND, {**AROUND, "stream": True}):
        reply = server.post("/infill", body)
        assert (reply.status, reply.error["type"]) == (501, "not_supported_error")
    assert server.post("/infill", {"input_prefix": 5}).status == 501
