"""The embedding routes: the same vectors in every form, and 400s that name the field.

A chat model and an embedding model behind one server, in-process and over HTTP.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EmbeddingConfig, EngineConfig
from libertai_engine.embeddings import Embedder, load_embedder
from libertai_engine.engine import Engine, load_engine
from libertai_engine.errors import EngineError, EngineUnavailable, InvalidRequest, NotSupported
from tests.engine.serving import Running, check_unharmed, running
from tests.fake_encoders import MAX_TOKENS, add_recipe, save_encoder

TEXTS = ["the cat sat on the mat", "a dog", "", "the old king sleeps under a green tree"]
PROMPTS = {"query": "query: ", "document": "passage: "}


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedder]:
    folder = save_encoder(tmp_path_factory.mktemp("tiny_encoder"))
    add_recipe(folder, {"pooling_mode": "mean"}, prompts=PROMPTS)
    config = EmbeddingConfig(model=str(folder), alias="tiny-embed", batch_tokens=64)
    with load_embedder(config, progress=False) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def api(engine: Engine, embedder: Embedder) -> CompletionAPI:
    return CompletionAPI(engine, embedder=embedder)


@pytest.fixture(scope="module")
def both(api: CompletionAPI) -> Iterator[Running]:
    """One server with a chat model and an embedding model."""
    with running(api, has_metrics=True, has_slots=True) as server:
        yield server


@pytest.fixture(scope="module")
def vectors(api: CompletionAPI) -> list[list[float]]:
    """Each text by itself: what all other ways are held to."""
    return [api.embed({"content": text})["embedding"] for text in TEXTS]


def close(ours: Any, expected: list[list[float]]) -> bool:
    """The same numbers within 1e-6."""
    assert len(ours) == len(expected)
    return all(
        len(a) == len(b) and max(abs(x - y) for x, y in zip(a, b, strict=True)) < 1e-6
        for a, b in zip(ours, expected, strict=True)
    )


def test_one_text_answers_as_in_2023(both: Running, vectors: list[list[float]]) -> None:
    """An object with one flat array, bit for bit what the API gives in-process."""
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert both.post("/embedding", {"content": text}).json == {"embedding": vector}


def test_everything_else_answers_as_today(both: Running, vectors: list[list[float]]) -> None:
    """An array of numbered objects, also for one text in an array, `input`, or `/embeddings`."""
    several = both.post("/embedding", {"content": TEXTS}).json
    assert [each["index"] for each in several] == list(range(len(TEXTS)))
    assert close([each["embedding"][0] for each in several], vectors)
    one = [{"index": 0, "embedding": [vectors[0]]}]
    assert both.post("/embedding", {"content": TEXTS[:1]}).json == one
    assert both.post("/embedding", {"input": TEXTS[0]}).json == one
    assert both.post("/embeddings", {"content": TEXTS[0]}).json == one
    assert both.post("/embeddings", {"input": TEXTS[:1]}).json == one
    alone = both.post("/embedding", {"content": TEXTS[0]}).json
    assert both.post("/embedding", {"content": TEXTS[0], "input": None}).json == alone


def test_token_ids_are_taken_as_they_are(both: Running, embedder: Embedder) -> None:
    """One array of them is one text; texts between them get no marks."""
    (row,) = embedder.tokenizer.encode([TEXTS[0]], truncate=False)
    expected = both.post("/embedding", {"content": TEXTS[0]}).json
    assert both.post("/embedding", {"content": row}).json == expected
    mixed = [row[0], TEXTS[0], row[-1]]
    assert both.post("/embedding", {"content": mixed}).json == expected
    nested = both.post("/embedding", {"content": [row, TEXTS[0], mixed]}).json
    assert close([each["embedding"][0] for each in nested], [expected["embedding"]] * 3)


def test_openais_form(both: Running, embedder: Embedder, vectors: list[list[float]]) -> None:
    """Envelope, usage in tokens with marks, and floats as bytes."""
    body = {"input": TEXTS, "model": "whatever", "user": "anna"}
    reply = both.post("/v1/embeddings", body).json
    num_tokens = sum(map(len, embedder.tokenizer.encode(TEXTS, truncate=False)))
    assert reply["usage"] == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    assert (reply["object"], reply["model"]) == ("list", "tiny-embed")
    assert all(each["object"] == "embedding" for each in reply["data"])
    assert close([each["embedding"] for each in reply["data"]], vectors)
    packed = both.post("/v1/embeddings", {**body, "encoding_format": "base64"}).json["data"]
    for each, floats in zip(packed, reply["data"], strict=True):
        unpacked = list(struct.unpack("<32f", base64.b64decode(each["embedding"])))
        assert unpacked == floats["embedding"]


def test_the_openai_client(both: Running, vectors: list[list[float]]) -> None:
    """It asks for base64 by itself and decodes it."""
    with openai.OpenAI(base_url=f"{both.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model="any", input=TEXTS)
        assert close([each.embedding for each in answer.data], vectors)
        assert {each.id for each in client.models.list().data} >= {"tiny-embed"}
        short = client.embeddings.create(model="any", input="a dog", dimensions=5)
        assert len(short.data[0].embedding) == 5
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="any", input=["a", "cat " * 50])
        assert caught.value.param == "input[1]"
        assert caught.value.code == "context_length_exceeded"


def test_dimensions_and_norms(api: CompletionAPI, vectors: list[list[float]]) -> None:
    """The first numbers, scaled to length 1 again; or raw, or any norm."""
    (first,) = api.embed({"content": TEXTS[:1], "dimensions": 7})[0]["embedding"]
    size = sum(each * each for each in vectors[0][:7]) ** 0.5
    assert close([first], [[each / size for each in vectors[0][:7]]])
    raw = api.embed({"content": TEXTS[0], "embd_normalize": -1})["embedding"]
    norm = sum(each * each for each in raw) ** 0.5
    assert norm != pytest.approx(1.0, abs=0.1)
    assert close([[each / norm for each in raw]], vectors[:1])
    taxicab = api.embed({"content": TEXTS[0], "embd_normalize": 1})["embedding"]
    assert sum(map(abs, taxicab)) == pytest.approx(1.0, abs=1e-5)


def test_queries_and_documents_get_what_the_model_wants(api: CompletionAPI) -> None:
    """The prompts of its folder; nothing if nothing is said."""
    for kind, prompt in PROMPTS.items():
        asked = api.embed({"content": "a dog", "input_type": kind})
        assert asked == api.embed({"content": prompt + "a dog"})
        assert asked != api.embed({"content": "a dog"})


def test_too_long_texts_are_named_or_cut(both: Running) -> None:
    """Which one, how long it is and how long it may be; cutting keeps the marks."""
    long = "the cat " * MAX_TOKENS
    reply = both.post("/embedding", {"content": ["a dog", long, long]})
    error = reply.error
    assert reply.status == 400 and error["type"] == "exceed_context_size_error"
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (2 * MAX_TOKENS + 2, MAX_TOKENS)
    assert "`content[1]`" in error["message"]
    cut = both.post("/embedding", {"content": long, "truncate": True}).json
    assert cut == both.post("/embedding", {"content": "the cat " * (MAX_TOKENS // 2 - 1)}).json


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "`input` or `content` is required"),
    ({"content": None}, "`input` or `content` is required"),
    ({"content": []}, "`content` must not be empty"),
    ({"content": [[]]}, "`content[0]` must not be empty"),
    ({"content": 5}, "`content` must be a string"),
    ({"content": True}, "`content` must be a string"),
    ({"content": {"text": "a"}}, "`content` must be a string"),
    ({"content": ["a", None]}, "`content[1]` must be a string"),
    ({"content": ["a", {"content": "b"}]}, "`content[1]` must be a string"),
    ({"content": ["a", True]}, "`content[1]` must be a string"),
    ({"content": [[["a"]]]}, "`content[0]` must be a string"),
    ({"content": [10**9]}, "`content` must be an integer between 0 and"),
    ({"content": [-1]}, "`content` must be an integer between 0 and"),
    ({"content": [[5], [1e30]]}, "`content[1]` must be an integer between 0 and"),
    ({"content": [5, None]}, "`content` must be a string"),
    ({"content": ["a"] * 2049}, "`content` must be at most 2048 texts"),
    ({"content": "a", "truncate": "yes"}, "`truncate` must be true or false"),
    ({"content": "a", "input_type": "passage"}, "`input_type` must be `query` or `document`"),
    ({"content": "a", "input_type": 1}, "`input_type` must be `query` or `document`"),
    ({"content": "a", "dimensions": 0}, "`dimensions` must be an integer between 1 and 32"),
    ({"content": "a", "dimensions": 33}, "`dimensions` must be an integer between 1 and 32"),
    ({"content": "a", "dimensions": [1]}, "`dimensions` must be a finite number"),
    ({"content": "a", "embd_normalize": -2}, "`embd_normalize` must be an integer between -1"),
    ({"content": "a", "encoding_format": "int8"}, "`encoding_format` must be `float` or `base64`"),
]


@pytest.mark.parametrize(("body", "said"), WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_wrong_bodies_are_400s_that_name_the_field(
    both: Running, body: dict[str, Any], said: str
) -> None:
    """On all three routes, which read the same."""
    paths = ["/embedding", "/embeddings"]
    for path in paths:
        reply = both.post(path, body)
        assert reply.status == 400 and said in reply.error["message"], reply.body
    body = {"input" if name == "content" else name: value for name, value in body.items()}
    error = both.post("/v1/embeddings", body)
    said = said.replace("`input` or `content`", "`input`").replace("`content", "`input")
    assert error.status == 400 and said in error.json["error"]["message"]
    assert error.json["error"]["param"] == re.findall(r"`(.*?)`", said)[0]


def test_lone_surrogates(both: Running) -> None:
    """JSON can write what is no text."""
    reply = both.send("POST", "/embedding", rb'{"content": ["a", "\ud800"]}')
    assert reply.status == 400 and "`content[1]`" in reply.error["message"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
_FIELDS = st.sampled_from(
    ["content", "input", "truncate", "input_type", "dimensions", "embd_normalize", "model"]
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=st.dictionaries(_FIELDS, _JSON) | _JSON)
def test_whatever_is_sent_is_answered_or_refused(api: CompletionAPI, body: Any) -> None:
    """Finite numbers, or an error below 500 that can be shown."""
    try:
        answer = api.embed(body)
    except EngineError as error:
        assert 400 <= error.status < 500 and str(error)
    else:
        assert "NaN" not in json.dumps(answer) and "Infinity" not in json.dumps(answer)


def test_one_server_does_both_at_once(
    both: Running, vectors: list[list[float]], reference: dict[str, Any]
) -> None:
    """Long lists and completions together; each answer is as it always is."""
    failures: list[Any] = []

    def embed() -> None:
        reply = both.post("/embedding", {"content": TEXTS * 40}).json
        if not close([each["embedding"][0] for each in reply], vectors * 40):
            failures.append("other vectors")

    threads = [threading.Thread(target=embed) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        check_unharmed(both, reference)
    for thread in threads:
        thread.join()
    assert not failures


def test_both_models_are_told(both: Running, engine: Engine, embedder: Embedder) -> None:
    """In the list of models, in the props, in the metrics."""
    listed = both.get("/v1/models").json["data"]
    assert [each["id"] for each in listed] == [engine.name, "tiny-embed"]
    assert both.get("/v1/models/tiny-embed").json["meta"]["n_embd"] == 32
    props = both.get("/props").json
    assert props["total_slots"] == 2
    assert props["embedding"] == {
        "model_alias": "tiny-embed",
        "n_ctx": MAX_TOKENS,
        "n_embd": 32,
        "pooling": "mean",
        "normalize": True,
        "query_prompt": "query: ",
        "document_prompt": "passage: ",
    }
    before = embedder.totals
    both.post("/embedding", {"content": ["a dog", "a cat"]})
    lines = both.get("/metrics").body.decode().splitlines()
    counted = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(counted["llamacpp:embedding_texts_total"]) == before.num_texts + 2
    assert float(counted["llamacpp:embedding_tokens_total"]) == before.num_tokens + 8
    assert float(counted["llamacpp:embedding_requests"]) == 0
    assert "llamacpp:n_decode_total" in counted


def test_without_an_embedding_model(server: Running) -> None:
    """501 on all three routes, and the flag that helps; nothing else is missing."""
    for path in ("/embedding", "/embeddings", "/v1/embeddings"):
        reply = server.post(path, {"content": "a", "input": "a"})
        assert reply.status == 501 and "--embedding-model" in reply.json["error"]["message"]
    assert server.get("/props").json["embedding"] is None


def test_an_embedding_model_alone(embedder: Embedder, vectors: list[list[float]]) -> None:
    """Its routes work; what needs a chat model is a 501; the server is healthy."""
    with running(CompletionAPI(None, embedder=embedder), has_metrics=True, has_slots=True) as alone:
        assert alone.post("/embedding", {"content": TEXTS[0]}).json == {"embedding": vectors[0]}
        assert alone.get("/health").json == {"status": "ok"}
        assert [each["id"] for each in alone.get("/v1/models").json["data"]] == ["tiny-embed"]
        assert "total_slots" not in alone.get("/props").json
        assert b"embedding_texts_total" in alone.get("/metrics").body
        body = {"prompt": "a", "content": "a", "messages": [{"role": "user", "content": "a"}]}
        for path in ("/completion", "/infill", "/tokenize", "/apply-template", "/v1/completions"):
            assert alone.post(path, body).status == 501, path
        for path in ("/v1/chat/completions", "/slots/0?action=erase"):
            assert alone.post(path, body).status == 501, path
        assert alone.get("/slots").status == 501
        streamed = alone.post("/completion", {**body, "stream": True})
        assert streamed.status == 501


async def test_async_is_sync(api: CompletionAPI, vectors: list[list[float]]) -> None:
    """Twenty at once, put together by the thread."""
    answers = await asyncio.gather(*(api.aembed({"content": text}) for text in TEXTS * 5))
    assert close([each["embedding"] for each in answers], vectors * 5)


async def test_cancelling_drops_what_is_left(api: CompletionAPI, embedder: Embedder) -> None:
    """The thread is free again long before the list would have been done."""
    task = asyncio.create_task(api.aembed({"content": ["the cat sat on the mat"] * 2000}))
    while not embedder.num_open:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    done = embedder.totals.num_texts
    assert (await api.aembed({"content": "a dog"}))["embedding"]
    assert embedder.num_open == 0 and embedder.totals.num_texts < done + 1000


def test_a_client_that_leaves_frees_the_thread(both: Running, embedder: Embedder) -> None:
    """Over HTTP, too."""
    body = json.dumps({"content": ["the cat sat on the mat"] * 2000}).encode()
    head = f"POST /embedding HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with both.connect() as client:
        client.sendall(head.encode() + body)
        deadline = time.monotonic() + 10
        while not embedder.num_open and time.monotonic() < deadline:
            time.sleep(0.001)
    before = embedder.totals.num_texts
    assert both.post("/embedding", {"content": "a dog"}).status == 200
    while embedder.num_open and time.monotonic() < deadline:
        time.sleep(0.001)
    assert embedder.num_open == 0 and embedder.totals.num_texts < before + 1500


def test_no_rows_are_refused(embedder: Embedder) -> None:
    """There would be nothing to wait for."""
    with pytest.raises(InvalidRequest, match="`rows` must not be empty"):
        embedder.embed([])
    assert embedder.num_open == 0


def test_a_closed_embedder_is_unavailable(tmp_path: Path) -> None:
    """503 on the route, and the health of the whole says so."""
    closed = load_embedder(str(save_encoder(tmp_path)), progress=False)
    api = CompletionAPI(None, embedder=closed)
    closed.close()
    with pytest.raises(EngineUnavailable):
        api.embed({"content": "a dog"})
    with pytest.raises(EngineUnavailable):
        api.health()


def test_the_chat_model_itself_only_if_asked(tiny_model: Path) -> None:
    """`self` is the mean of its states; without it there are no embeddings."""
    config = EngineConfig(model=str(tiny_model), num_slots=1)
    with load_engine(config, progress=False) as engine:
        with pytest.raises(NotSupported):
            CompletionAPI(engine).embed({"content": "a"})
        shared = EmbeddingConfig(model="self")
        with load_embedder(shared, chat_model=engine.model) as own:
            api = CompletionAPI(engine, embedder=own)
            before = api.complete({"prompt": "Once upon", "n_predict": 8, "temperature": 0})
            vector = api.embed({"content": "Once upon a time"})["embedding"]
            assert len(vector) == 48 and own.name == engine.name
            after = api.complete({"prompt": "Once upon", "n_predict": 8, "temperature": 0})
    assert isinstance(before, dict) and isinstance(after, dict)
    assert before["content"] == after["content"]


def test_tokens_without_an_embedding_are_refused(tmp_path: Path) -> None:
    """Some tokenizers have more tokens than their model; on a GPU that would end the process."""
    from tests.fake_encoders import word_tokenizer

    num_known = len(word_tokenizer())
    folder = save_encoder(tmp_path)
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained(folder)
    with load_embedder(str(folder), progress=False) as small:
        api = CompletionAPI(None, embedder=small)
        with pytest.raises(InvalidRequest, match=r"`content\[1\]` has a token"):
            api.embed({"content": ["a dog", "extra"]})
        with pytest.raises(InvalidRequest, match=f"between 0 and {num_known - 1}"):
            api.embed({"content": [num_known]})
        for rows in ([[]], [[1], [num_known]], [[-1]], [[1] * 41]):
            with pytest.raises(InvalidRequest, match=rf"`rows\[{len(rows) - 1}\]`"):
                small.embed(rows)
