"""Embedding from the client: what is sent to which server, and what comes of its answers."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EmbeddingConfig
from libertai_engine.embeddings import Embedder, load_embedder
from libertai_engine.engine import load_engine
from libertai_llm import Client, errors
from libertai_llm.embeddings import read_vectors
from libertai_llm.engines import SHARED_EMBEDDERS, SHARED_ENGINES
from tests.engine.serving import Running, running
from tests.fake_encoders import MAX_TOKENS, add_recipe, save_encoder
from tests.llm.conftest import MakeClient, Serve
from tests.llm.scripted_server import Asked, ScriptedServer, Verb, whole

TEXTS = ["the cat sat", "a dog", "king", "the old river runs"]


def vector_of(text: str) -> list[float]:
    return [float(len(text)), 1.0]


def script(build: str | None) -> Any:
    """A server that tells its build and takes arrays, or is of 2023."""

    def play(asked: Asked) -> list[bytes]:
        if asked.path == "/props":
            return [whole({"build_info": build} if build else {"assistant_name": ""})]
        content = asked.json["content"]
        if build is None:
            return [whole({"embedding": vector_of(content)})]
        texts = [content] if isinstance(content, str) else content
        found = [{"index": n, "embedding": [vector_of(each)]} for n, each in enumerate(texts)]
        return [whole(found[::-1])]

    return play


def contents(server: ScriptedServer) -> list[Any]:
    return [asked.json["content"] for asked in server.asked if asked.method == "POST"]


def test_together_where_that_is_known_to_work(any_client: MakeClient, serve: Serve) -> None:
    """In batches of the asked size, answers in any order; the props are asked for once."""
    server = serve(script("b1"))
    client = any_client(server.url)
    progress: list[int] = []
    for _ in range(2):
        vectors = client.embed(TEXTS, batch_size=3, on_progress=progress.append)
        assert vectors == [vector_of(text) for text in TEXTS]
    assert contents(server) == [TEXTS[:3], TEXTS[3]] * 2
    assert [asked.path for asked in server.asked].count("/props") == 1
    assert progress == [3, 1, 3, 1]


def test_one_by_one_where_an_array_does_harm(any_client: MakeClient, serve: Serve) -> None:
    """A server of 2023 answers nothing but nulls after it was sent an array."""
    server = serve(script(None))
    assert any_client(server.url).embed(TEXTS) == [vector_of(text) for text in TEXTS]
    assert contents(server) == TEXTS


def test_what_is_not_asked_for_is_not_sent(any_client: MakeClient, serve: Serve) -> None:
    """Old servers know none of the options; others get them under these names."""
    server = serve(script("b1"))
    client = any_client(server.url)
    client.embed(["a"])
    more = {"extra_body": {"embd_normalize": -1}}
    client.embed(["a"], input_type="query", truncate=True, dimensions=2, **more)
    assert [asked.json for asked in server.asked] == [
        {"content": "a"},
        {
            "content": "a",
            "input_type": "query",
            "truncate": True,
            "dimensions": 2,
            "embd_normalize": -1,
        },
    ]


def test_nothing_to_embed_asks_nobody(any_client: MakeClient, serve: Serve) -> None:
    """An empty list of texts is an empty list of vectors."""
    server = serve(script("b1"))
    assert any_client(server.url).embed([]) == []
    assert not server.asked


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"texts": "a text"}, "texts"),
        ({"texts": 5}, "texts"),
        ({"texts": ["a", 5]}, "texts[1]"),
        ({"texts": ["\ud800"]}, "texts[0]"),
        ({"texts": ["a"], "input_type": "passage"}, "input_type"),
        ({"texts": ["a"], "dimensions": 0}, "dimensions"),
        ({"texts": ["a"], "extra_body": [1]}, "extra_body"),
        ({"texts": ["a"], "extra_body": {"x": {1, 2}}}, "extra_body"),
        ({"texts": ["a", "b"], "batch_size": 0}, "batch_size"),
        ({"texts": ["a", "b"], "batch_size": 5000}, "batch_size"),
    ],
)
def test_wrong_arguments_are_named(
    any_client: MakeClient, serve: Serve, arguments: dict[str, Any], field: str
) -> None:
    """Before anything but the props is asked for."""
    server = serve(script("b1"))
    with pytest.raises(errors.InvalidOption) as caught:
        any_client(server.url).embed(**arguments)
    assert caught.value.field == field
    assert not contents(server)


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        ({"embedding": [0.0, 0.0]}, errors.NotSupported, "needs `--embedding`"),
        ({"embedding": [None, None]}, errors.InvalidReply, "started again"),
        ({"embedding": ["1", "2"]}, errors.InvalidReply, "started again"),
        ({"embedding": [10**400]}, errors.InvalidReply, "started again"),
        ({"embedding": [10**400, -(10**400)]}, errors.InvalidReply, "started again"),
        ({"embedding": [math.inf, -math.inf]}, errors.InvalidReply, "started again"),
        ({"embedding": []}, errors.InvalidReply, "no list of numbers"),
        ({"embedding": [[1.0], [2.0]]}, errors.InvalidReply, "does the server pool"),
        ({"content": "", "stop": True}, errors.InvalidReply, "has the text any token"),
        ([], errors.InvalidReply, "expected 1 embeddings"),
        ([{"index": 1, "embedding": [1.0]}], errors.InvalidReply, "numbered"),
        ([{"index": "0", "embedding": [1.0]}], errors.InvalidReply, "numbered"),
        (["results", [{"embedding": [1.0]}]], errors.InvalidReply, "expected 1"),
        ([5], errors.InvalidReply, "numbered"),
        ("text", errors.InvalidReply, "expected 1"),
        ({"content": "slot unavailable"}, errors.SlotUnavailable, "busy"),
    ],
)
def test_answers_that_are_no_embeddings(
    reply: Any, kind: type[errors.LibertaiError], said: str
) -> None:
    """Each says what is wrong, and with whom."""
    with pytest.raises(kind, match=said):
        read_vectors(reply, 1)


def test_all_forms_of_good_answers() -> None:
    """2023's, today's, and OpenAI's, whose numbers may come in any order."""
    assert read_vectors({"embedding": [1, 2.5]}, 1) == [[1, 2.5]]
    assert read_vectors([{"embedding": [[1.0]]}, {"embedding": [[2.0]]}], 2) == [[1.0], [2.0]]
    data = [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}]
    assert read_vectors({"data": data}, 2) == [[1.0], [2.0]]


def test_asking_for_the_props_has_the_limits_of_the_call(
    any_client: MakeClient, serve: Serve
) -> None:
    """Whether texts may be sent together is a request like the others."""
    server = serve(lambda asked: [Verb.AWAIT_HANGUP])
    client = any_client(server.url)
    begun = time.monotonic()
    with pytest.raises(errors.TimedOut):
        client.embed(["a", "b"], timeouts=0.4)
    assert time.monotonic() - begun < 3 and server.hung_up.wait(5)


def test_a_busy_server_of_2023_is_asked_again(any_client: MakeClient, serve: Serve) -> None:
    """It says so with status 200."""

    def play(asked: Asked) -> list[bytes]:
        if asked.number == 0:
            return [whole({"content": "slot unavailable"})]
        return [whole({"embedding": [1.0]})]

    server = serve(play)
    assert any_client(server.url).embed(["a"]) == [[1.0]]
    assert len(server.asked) == 2


def test_a_refusal_names_the_callers_text(any_client: MakeClient, serve: Serve) -> None:
    """Not the place in the batch that happened to hold it."""

    def play(asked: Asked) -> list[bytes]:
        if asked.path == "/props":
            return [whole({"build_info": "b1"})]
        content = asked.json["content"]
        if "bad" not in content:
            found = [{"index": n, "embedding": [[1.0]]} for n in range(len(content))]
            return [whole(found)]
        place = f"[{content.index('bad')}]" if isinstance(content, list) else ""
        error = {"code": 400, "message": f"`content{place}` has 9 tokens", "type": "t"}
        return [whole({"error": error}, 400)]

    client = any_client(serve(play).url)
    for texts, named in ((["a", "b", "c", "bad"], 3), (["a", "b", "bad"], 2), (["bad"], 0)):
        with pytest.raises(errors.BadRequest, match=rf"`texts\[{named}\]` has 9 tokens"):
            client.embed(texts, batch_size=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = save_encoder(tmp_path_factory.mktemp("encoder"))
    return add_recipe(made, {"pooling_mode": "mean"}, prompts={"query": "query: "})


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Iterator[Embedder]:
    with load_embedder(EmbeddingConfig(model=str(folder)), progress=False) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def embed_server(embedder: Embedder) -> Iterator[Running]:
    with running(CompletionAPI(None, embedder=embedder)) as server:
        yield server


def test_in_process_is_http(
    any_client: MakeClient, embed_server: Running, embedder: Embedder, folder: Path
) -> None:
    """By the folder's name, by the running embedder, and over HTTP: the same numbers."""
    near = any_client(engine=str(folder)).embed(TEXTS, batch_size=2)
    assert near == any_client(engine=embedder).embed(TEXTS, batch_size=2)
    assert near == any_client(embed_server.url).embed(TEXTS, batch_size=2)
    alone = [any_client(engine=folder).embed([text])[0] for text in TEXTS]
    for one, other in zip(near, alone, strict=True):
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-6


def test_options_reach_the_model(any_client: MakeClient, embed_server: Running) -> None:
    """Over HTTP and in-process, with limits on the time and without."""
    client = any_client(embed_server.url, timeouts=20.0)
    assert client.embed(["a dog"], input_type="query") == client.embed(["query: a dog"])
    assert client.embed(["a dog"], input_type="document") == client.embed(["a dog"])
    assert len(client.embed(["a dog"], dimensions=3)[0]) == 3
    with pytest.raises(errors.ContextWindowExceeded) as caught:
        client.embed(["a", "cat " * 50])
    assert (caught.value.n_prompt_tokens, caught.value.n_ctx) == (52, MAX_TOKENS)
    assert "`texts[1]`" in str(caught.value)
    assert len(client.embed(["a", "cat " * 50], truncate=True)) == 2


def test_one_name_shares_one_embedder(folder: Path) -> None:
    """Loaded with its first user, closed with its last; nothing that generates is loaded."""
    first, second = Client(engine=str(folder)), Client(engine=f"{folder}/.")
    first.embed(["a"])
    second.embed(["a"])
    key = str(folder.resolve())
    shared = SHARED_EMBEDDERS.acquire(key)
    SHARED_EMBEDDERS.release(key)
    first.close()
    assert shared.is_alive
    second.close()
    assert not shared.is_alive
    assert key not in SHARED_ENGINES._entries
    with pytest.raises(errors.LibertaiError, match="closed"):
        first.embed(["a"])


def test_a_model_that_generates_can_embed_if_it_is_named(tiny_model: Path) -> None:
    """One client does both; a running engine without an embedder says that it cannot."""
    with Client(engine=str(tiny_model)) as client:
        assert len(client.embed(["Once upon a time"])[0]) == 48
        assert client.complete("Once", max_tokens=2, ignore_eos=True).tokens_predicted >= 2
    with (
        load_engine(str(tiny_model), progress=False) as engine,
        Client(engine=engine) as client,
        pytest.raises(errors.NotSupported),
    ):
        client.embed(["a"])


def test_an_embedder_says_what_it_cannot(any_client: MakeClient, embedder: Embedder) -> None:
    """The same as a server with it alone; what there is to tell is told."""
    client = any_client(engine=embedder)
    with pytest.raises(errors.NotSupported):
        client.complete("a")
    assert [each.id for each in client.models()] == [embedder.name]
    assert client.health().is_ready
    assert client.props().raw["embedding"]["n_embd"] == 32


def test_many_threads_share_a_client(embed_server: Running) -> None:
    """Each gets its own vectors."""
    expected = {}
    with Client(embed_server.url) as client:
        for text in TEXTS:
            expected[text] = client.embed([text])[0]
        failures: list[str] = []

        def ask(text: str) -> None:
            for _ in range(5):
                (vector,) = client.embed([text])
                pairs = zip(vector, expected[text], strict=True)
                if max(abs(a - b) for a, b in pairs) > 1e-6:
                    failures.append(text)

        threads = [threading.Thread(target=ask, args=(text,)) for text in TEXTS * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
