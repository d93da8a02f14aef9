"""`LibertaiEmbeddings`: LangChain's standard suites, and what they do not ask."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.exceptions import ContextOverflowError
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from pydantic import ValidationError

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EmbeddingConfig
from libertai_engine.embeddings import Embedder, load_embedder
from libertai_llm.errors import ConnectError, LibertaiError
from libertai_llm.langchain import LibertaiEmbeddings
from tests.engine.serving import Running, running
from tests.fake_encoders import add_recipe, save_encoder
from tests.llm.scripted_server import Asked, ScriptedServer, whole

DOCUMENTS = ["the cat sat on the mat", "bread and water", "the king sleeps"]


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


class TestUnit(EmbeddingsUnitTests):
    """Construction, also from the environment."""

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return LibertaiEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"base_url": "http://127.0.0.1:9", "model": "all-MiniLM-L6-v2"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return (
            {"LIBERTAI_API_KEY": "key-from-env"},
            {"base_url": "http://127.0.0.1:9"},
            {"api_key": "key-from-env"},
        )


class TestInProcess(EmbeddingsIntegrationTests):
    """The suite on a model in this process."""

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return LibertaiEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"engine": self._embedder}

    @pytest.fixture(autouse=True)
    def _use(self, embedder: Embedder) -> None:
        self._embedder = embedder


class TestOverHTTP(EmbeddingsIntegrationTests):
    """The suite on a server."""

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return LibertaiEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"base_url": self._url}

    @pytest.fixture(autouse=True)
    def _use(self, embed_server: Running) -> None:
        self._url = embed_server.url


def test_in_process_is_http_and_async_is_sync(embed_server: Running, folder: Path) -> None:
    """The same numbers, whichever way."""
    near, far = (
        LibertaiEmbeddings(engine=str(folder)),
        LibertaiEmbeddings(base_url=embed_server.url),
    )
    expected = near.embed_documents(DOCUMENTS)
    assert far.embed_documents(DOCUMENTS) == expected
    query = near.embed_query("a cat")
    assert far.embed_query("a cat") == query

    async def both() -> None:
        for each in (near, far):
            assert await each.aembed_documents(DOCUMENTS) == expected
            assert await each.aembed_query("a cat") == query
            await each.aclose()

    asyncio.run(both())
    near.close()
    far.close()


def test_queries_and_documents_differ_as_the_model_wants(embedder: Embedder) -> None:
    """Our server's model knows its prompts; a prefix of the caller's stands for them."""
    plain = LibertaiEmbeddings(engine=embedder, query_prefix="", document_prefix="")
    own = LibertaiEmbeddings(engine=embedder)
    assert own.embed_query("a cat") == plain.embed_query("query: a cat")
    assert own.embed_documents(["a cat"]) == plain.embed_documents(["passage: a cat"])
    e5 = LibertaiEmbeddings(engine=embedder, query_prefix="old ", document_prefix="new ")
    assert e5.embed_query("cat") == plain.embed_query("old cat")
    assert e5.embed_documents(["cat"]) == [plain.embed_query("new cat")]
    assert own.embed_query("cat") != plain.embed_query("cat")


def test_a_vector_store_finds_what_is_meant(minilm: str) -> None:
    """The real model, through LangChain's own store and retriever."""
    documents = [
        Document("Paris is the capital of France."),
        Document("A banana is a yellow fruit."),
        Document("The engine of the car needs oil."),
        Document("Madrid lies in the middle of Spain."),
    ]
    with LibertaiEmbeddings(engine=minilm) as embeddings:
        store = InMemoryVectorStore.from_documents(documents, embeddings)
        retriever = store.as_retriever(search_kwargs={"k": 1})
        for question, word in (
            ("Which city do the French govern from?", "Paris"),
            ("What can I eat?", "banana"),
            ("My vehicle makes a strange noise", "oil"),
        ):
            assert word in retriever.invoke(question)[0].page_content


def test_too_long_texts_raise_langchains_error(embedder: Embedder) -> None:
    """Which is also ours; with `truncate` they are cut."""
    with pytest.raises(ContextOverflowError, match=r"texts\[1\]") as caught:
        LibertaiEmbeddings(engine=embedder).embed_documents(["a", "cat " * 50])
    assert isinstance(caught.value, LibertaiError)
    cut = LibertaiEmbeddings(engine=embedder, truncate=True)
    assert len(cut.embed_documents(["a", "cat " * 50])) == 2


def test_settings_reach_the_server() -> None:
    """Model, options, key and header; batches of the asked size; failures are tried again."""

    def play(asked: Asked) -> list[bytes]:
        if asked.path == "/props":
            return [whole({"build_info": "b1"})]
        if asked.number == 1:
            return [whole({"error": {"code": 503, "message": "loading"}}, 503)]
        texts = asked.json["content"]
        count = 1 if isinstance(texts, str) else len(texts)
        return [whole([{"index": n, "embedding": [[1.0, 2.0]]} for n in range(count)])]

    with ScriptedServer(play) as server:
        embeddings = LibertaiEmbeddings(
            base_url=server.url,
            api_key="secret",
            model="bge-m3",
            batch_size=2,
            dimensions=2,
            default_headers={"X-Tenant": "anna"},
            extra_body={"embd_normalize": 2},
        )
        assert embeddings.embed_documents(["a", "b", "c"]) == [[1.0, 2.0]] * 3
        bodies = [asked.json for asked in server.asked[2:]]
        options = {
            "input_type": "document",
            "dimensions": 2,
            "model": "bge-m3",
            "embd_normalize": 2,
        }
        assert bodies == [{"content": ["a", "b"], **options}, {"content": "c", **options}]
        headers = server.asked[-1].headers
        assert (headers["authorization"], headers["x-tenant"]) == ("Bearer secret", "anna")
        embeddings.close()


def test_nobody_there_is_langchains_error() -> None:
    """Without retries at once."""
    from langchain_core.exceptions import ModelConnectionError

    lonely = LibertaiEmbeddings(base_url="http://127.0.0.1:9", max_retries=0)
    with pytest.raises(ModelConnectionError) as caught:
        lonely.embed_query("a")
    assert isinstance(caught.value, ConnectError)


def test_progress_is_shown_if_wanted(
    embedder: Embedder, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, and only then."""
    LibertaiEmbeddings(engine=embedder).embed_documents(DOCUMENTS)
    assert capsys.readouterr().err == ""
    LibertaiEmbeddings(engine=embedder, show_progress=True, batch_size=2).embed_documents(DOCUMENTS)
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"base_url": "http://x", "engine": "y"},
        {"engine": "y", "unknown": 1},
        {"engine": "y", "batch_size": 0},
        {"engine": "y", "dimensions": 0},
        {"base_url": "http://x", "chunk_size": 5},
    ],
)
def test_wrong_arguments_are_refused_at_once(wrong: dict[str, Any]) -> None:
    """No target is wrong, too: the demo model would answer nonsense in silence."""
    with pytest.raises(ValidationError):
        LibertaiEmbeddings(**wrong)


def test_no_secret_leaves(folder: Path) -> None:
    """Not in repr, JSON or pickles; a copy in this process keeps everything."""
    made = LibertaiEmbeddings(
        base_url="http://anna:pa55@127.0.0.1:9",
        default_headers={"X-Key": "hidden-header"},
    )
    keyed = LibertaiEmbeddings(base_url="http://127.0.0.1:9", api_key="hidden-key")
    for each in (made, keyed):
        shown = [repr(each), str(each), each.model_dump_json(), repr(pickle.dumps(each))]
        assert not any(secret in text for text in shown for secret in ("pa55", "hidden"))
        assert json.loads(each.model_dump_json())["base_url"] == "http://127.0.0.1:9"
    again = pickle.loads(pickle.dumps(LibertaiEmbeddings(engine=str(folder))))
    assert len(again.embed_query("a")) == 32
    assert keyed.model_copy().api_key == keyed.api_key
