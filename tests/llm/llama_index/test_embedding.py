"""`LibertaiEmbedding`: LlamaIndex's embedding class, on servers and in this process."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler, TokenCountingHandler
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import ValidationError

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EmbeddingConfig
from libertai_engine.embeddings import Embedder, load_embedder
from libertai_llm.errors import ContextWindowExceeded
from libertai_llm.llama_index import LibertaiEmbedding, sentence_splitter
from tests.engine.serving import Running, running
from tests.fake_encoders import add_recipe, save_encoder
from tests.llm.scripted_server import Asked, ScriptedServer, whole

TEXTS = ["the cat sat on the mat", "bread and water", "the king sleeps"] * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = save_encoder(tmp_path_factory.mktemp("encoder"))
    prompts = {"query": "query: ", "document": "passage: "}
    return add_recipe(made, {"pooling_mode": "mean"}, prompts=prompts)


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Iterator[Embedder]:
    with load_embedder(EmbeddingConfig(model=str(folder)), progress=False) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def embed_server(embedder: Embedder) -> Iterator[Running]:
    with running(CompletionAPI(None, embedder=embedder)) as server:
        yield server


@pytest.fixture(params=["in-process", "http"])
def embedding(
    request: pytest.FixtureRequest, embedder: Embedder, embed_server: Running
) -> LibertaiEmbedding:
    """The class under test, on a running embedder and on a server."""
    if request.param == "http":
        return LibertaiEmbedding(base_url=embed_server.url)
    return LibertaiEmbedding(engine=embedder)


def close(ours: list[float], expected: list[float]) -> bool:
    return max(abs(a - b) for a, b in zip(ours, expected, strict=True)) < 1e-6


def test_it_is_an_embedding_of_llama_index() -> None:
    """The one test that LlamaIndex's own integrations have."""
    assert BaseEmbedding in LibertaiEmbedding.__mro__
    assert LibertaiEmbedding.class_name() == "LibertaiEmbedding"


async def test_async_is_sync_and_batches_are_single_texts(embedding: LibertaiEmbedding) -> None:
    """All of LlamaIndex's ways to ask give the same numbers."""
    single = [embedding.get_text_embedding(text) for text in TEXTS[:3]]
    batch = embedding.get_text_embedding_batch(TEXTS)
    assert all(close(ours, single[n % 3]) for n, ours in enumerate(batch))
    again = await embedding.aget_text_embedding_batch(TEXTS)
    assert all(close(ours, single[n % 3]) for n, ours in enumerate(again))
    assert close(await embedding.aget_text_embedding(TEXTS[0]), single[0])
    query = embedding.get_query_embedding("a cat")
    assert close(await embedding.aget_query_embedding("a cat"), query)
    assert close(embedding.get_agg_embedding_from_queries(["a cat", "a cat"]), query)
    workers = embedding.model_copy(update={"num_workers": 3})
    many = await workers.aget_text_embedding_batch(TEXTS)
    assert all(close(ours, theirs) for ours, theirs in zip(many, batch, strict=True))


def test_queries_and_documents_differ_as_the_model_wants(embedder: Embedder) -> None:
    """Its own prompts, or LlamaIndex's names for the caller's."""
    own = LibertaiEmbedding(engine=embedder)
    plain = LibertaiEmbedding(engine=embedder, query_instruction="", text_instruction="")
    assert own.get_query_embedding("a cat") == plain.get_query_embedding("query: a cat")
    assert own.get_text_embedding("a cat") == plain.get_text_embedding("passage: a cat")
    e5 = LibertaiEmbedding(engine=embedder, query_instruction="old ", document_prefix="new ")
    assert e5.get_query_embedding("cat") == plain.get_query_embedding("old cat")
    assert e5.get_text_embedding("cat") == plain.get_query_embedding("new cat")


def test_a_prefix_is_given_once(embedder: Embedder) -> None:
    """Under one of its names: nobody could say which was meant."""
    with pytest.raises(ValidationError, match="given twice"):
        LibertaiEmbedding(engine=embedder, query_instruction="a", query_prefix="b")


def test_batches_have_the_asked_size() -> None:
    """`embed_batch_size` texts a request, retried where that helps."""

    def play(asked: Asked) -> list[bytes]:
        if asked.path == "/props":
            return [whole({"build_info": "b1"})]
        if asked.number == 1:
            return [whole({"error": {"code": 503, "message": "loading"}}, 503)]
        count = 1 if isinstance(asked.json["content"], str) else len(asked.json["content"])
        return [whole([{"index": n, "embedding": [[1.0]]} for n in range(count)])]

    with ScriptedServer(play) as server:
        embedding = LibertaiEmbedding(
            base_url=server.url, embed_batch_size=2, model="m", api_key="k"
        )
        assert embedding.get_text_embedding_batch(["a", "b", "c"]) == [[1.0]] * 3
        assert [asked.json["content"] for asked in server.asked[2:]] == [["a", "b"], "c"]
        assert server.asked[-1].json["model"] == "m"
        assert server.asked[-1].headers["authorization"] == "Bearer k"
        embedding.close()


def test_callbacks_hear_of_texts_and_vectors(embedder: Embedder) -> None:
    """One event a call, with what went in and came out; tokens are counted."""
    debug = LlamaDebugHandler(print_trace_on_end=False)
    counter = TokenCountingHandler(tokenizer=str.split)
    embedding = LibertaiEmbedding(
        engine=embedder, callback_manager=CallbackManager([debug, counter])
    )
    vector = embedding.get_text_embedding("the cat sat")
    ((_, end),) = debug.get_event_pairs(CBEventType.EMBEDDING)
    assert end.payload is not None
    assert end.payload[EventPayload.CHUNKS] == ["the cat sat"]
    assert end.payload[EventPayload.EMBEDDINGS] == [vector]
    assert counter.total_embedding_token_count == 3
    payload = embedding.to_payload()
    assert payload["model_name"] == embedder.name and "api_key" not in payload


def test_the_cache_spares_the_model(embedder: Embedder) -> None:
    """LlamaIndex's own, in front of us."""
    embedding = LibertaiEmbedding(engine=embedder, embeddings_cache=SimpleKVStore())
    first = embedding.get_text_embedding_batch(["a cat", "a dog"])
    before = embedder.totals.num_texts
    assert embedding.get_text_embedding_batch(["a cat", "a dog"]) == first
    assert embedder.totals.num_texts == before


def test_the_event_loop_stays_free(embed_server: Running) -> None:
    """Others run while a long list is embedded; two loops after each other use one object."""
    embedding = LibertaiEmbedding(base_url=embed_server.url)

    async def ticks() -> int:
        task = asyncio.create_task(embedding.aget_text_embedding_batch(TEXTS * 10))
        count = 0
        while not task.done():
            await asyncio.sleep(0.002)
            count += 1
        assert len(task.result()) == 10 * len(TEXTS)
        return count

    assert asyncio.run(ticks()) > 3
    assert asyncio.run(ticks()) > 3
    embedding.close()


def test_many_threads_share_one_object(embedding: LibertaiEmbedding) -> None:
    """As ingestion pipelines do."""
    expected = embedding.get_text_embedding(TEXTS[0])
    found: list[bool] = []

    def ask() -> None:
        found.extend(close(embedding.get_text_embedding(TEXTS[0]), expected) for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 30 and all(found)


def test_written_down_and_read_again(folder: Path, embedder: Embedder) -> None:
    """Dicts, JSON and pickles make an equal one; a running embedder is written by its name."""
    made = LibertaiEmbedding(engine=str(folder), embed_batch_size=7, truncate=True)
    expected = made.get_query_embedding("a cat")
    for again in (
        LibertaiEmbedding.from_dict(made.to_dict()),
        LibertaiEmbedding.from_json(made.to_json()),
        pickle.loads(pickle.dumps(made)),
        copy.deepcopy(made),
        made.model_copy(),
    ):
        assert (again.embed_batch_size, again.truncate) == (7, True)
        assert again.get_query_embedding("a cat") == expected
    assert LibertaiEmbedding(engine=embedder).to_dict()["engine"] == embedder.name
    made.close()


def test_no_secret_is_written_down() -> None:
    """Neither a key nor a password in the address."""
    made = LibertaiEmbedding(
        base_url="http://anna:pa55@127.0.0.1:9", default_headers={"X-Key": "hidden"}
    )
    keyed = LibertaiEmbedding(base_url="http://127.0.0.1:9", api_key="hidden")
    for each in (made, keyed):
        shown = [repr(each), each.to_json(), json.dumps(each.to_payload()), str(pickle.dumps(each))]
        assert not any(secret in text for text in shown for secret in ("pa55", "hidden"))


@pytest.mark.parametrize(
    "wrong",
    [{}, {"base_url": "http://x", "engine": "y"}, {"engine": "y", "unknown": 1}],
)
def test_wrong_arguments_are_refused_at_once(wrong: dict[str, Any]) -> None:
    """No target is wrong, too: the demo model would answer nonsense in silence."""
    with pytest.raises(ValidationError):
        LibertaiEmbedding(**wrong)


def test_too_long_texts(embedding: LibertaiEmbedding) -> None:
    """An error that names them, unless they may be cut."""
    with pytest.raises(ContextWindowExceeded, match=r"texts\[1\]"):
        embedding.get_text_embedding_batch(["a", "cat " * 50])
    cut = embedding.model_copy(update={"truncate": True})
    assert len(cut.get_text_embedding_batch(["a", "cat " * 50])) == 2


def test_an_index_finds_what_is_meant(minilm: str) -> None:
    """The real model under LlamaIndex's own index and retriever."""
    facts = [
        "Paris is the capital of France.",
        "A banana is a yellow fruit.",
        "The engine of the car needs oil.",
        "Madrid lies in the middle of Spain.",
    ]
    with LibertaiEmbedding(engine=minilm) as embedding:
        index = VectorStoreIndex.from_documents(
            [Document(text=fact) for fact in facts],
            embed_model=embedding,
            transformations=[sentence_splitter(str.split)],
        )
        retriever = index.as_retriever(similarity_top_k=1)
        for question, number in (
            ("Which city do the French govern from?", 0),
            ("What can I eat?", 1),
            ("My vehicle makes a strange noise", 2),
        ):
            assert retriever.retrieve(question)[0].text == facts[number]
