"""Token counts of the model's own, splitters that keep to them, and no way to the network."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import llama_index.core
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core import Document, MockEmbedding, Settings
from llama_index.core.llms import MockLLM
from llama_index.core.utils import get_tokenizer

from libertai_llm import Client
from libertai_llm.llama_index import (
    Libertai,
    ModelTokenizer,
    configure,
    sentence_splitter,
    set_tokenizer,
)
from libertai_llm.llama_index.tokens import sentences

STORY = " ".join(f"The {n}th day was long. Anna went to the sea? Yes!\nShe did." for n in range(60))


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    """What tests set for all of LlamaIndex is put back."""
    names = ("_llm", "_embed_model", "_node_parser", "_tokenizer")
    before = {name: getattr(Settings, name) for name in names}
    tokenizer = llama_index.core.global_tokenizer
    yield
    llama_index.core.global_tokenizer = tokenizer
    for name, value in before.items():
        setattr(Settings, name, value)


class Counting:
    """Tokenises by words, and counts how often it was asked."""

    def __init__(self) -> None:
        self.num_asked = 0

    def tokenize(self, text: str) -> list[int]:
        self.num_asked += 1
        return [len(word) for word in text.split()]


def test_counts_are_the_models(tiny_model: Path) -> None:
    """From a client and from a model class, the ids of its own tokenizer."""
    with Client(engine=str(tiny_model)) as client:
        expected = client.tokenize(STORY)
        assert set_tokenizer(client)(STORY) == expected
        assert get_tokenizer()(STORY) == expected
        llm = Libertai(engine=str(tiny_model))
        assert ModelTokenizer(llm)(STORY) == expected
        again = pickle.loads(pickle.dumps(ModelTokenizer(llm)))
        assert again(STORY) == expected
        llm.close()
        again._source.close()


def test_a_text_is_asked_for_once() -> None:
    """LlamaIndex counts the same text many times; a changed answer changes nothing of ours."""
    source = Counting()
    tokenizer = ModelTokenizer(source)
    tokenizer("a bb")[:] = []
    assert tokenizer("a bb") == [1, 2] and source.num_asked == 1
    small = ModelTokenizer(source, size=1)
    for text in ("a", "b", "a"):
        small(text)
    assert source.num_asked == 4


def test_chunks_fit_by_the_models_count(tiny_model: Path) -> None:
    """None is longer than asked for, sentences stay whole, nothing is lost."""
    with Client(engine=str(tiny_model)) as client:
        splitter = sentence_splitter(client, chunk_size=120, chunk_overlap=0)
        chunks = splitter.split_text(STORY)
        assert len(chunks) > 5
        assert all(len(client.tokenize(chunk)) <= 120 for chunk in chunks)
        assert "".join("".join(chunks).split()) == "".join(STORY.split())
        assert all(chunk.rstrip()[-1] in ".!?" for chunk in chunks)


def test_one_call_sets_all_defaults() -> None:
    """Model, embeddings, tokenizer and splitter; none is left to be fetched."""
    llm, embed_model, source = MockLLM(), MockEmbedding(embed_dim=2), Counting()
    object.__setattr__(llm, "tokenize", source.tokenize)
    tokenizer = configure(llm, embed_model, chunk_size=50, chunk_overlap=5)
    assert Settings.llm is llm and Settings.embed_model is embed_model
    assert get_tokenizer() is tokenizer
    nodes = Settings.node_parser.get_nodes_from_documents([Document(text=STORY)])
    assert len(nodes) > 5 and source.num_asked > 5
    assert all(len(node.get_content().split()) <= 50 for node in nodes)


@given(st.text(alphabet="ab .!?\n。\"')", max_size=60))
def test_sentences_add_up_to_the_text(text: str) -> None:
    """Whatever the marks; none is empty."""
    pieces = sentences(text)
    assert "".join(pieces) == text and all(pieces)


def test_sentences_end_where_they_end() -> None:
    """Behind marks and quotes, at lines, not inside numbers."""
    text = 'He said: "Go!" Then 3.5 miles. Why?\nNo end'
    assert sentences(text) == ['He said: "Go!" ', "Then 3.5 miles. ", "Why?\n", "No end"]


def test_a_line_of_dots_takes_no_time() -> None:
    """As in tables of contents: work in proportion to the text."""
    start = time.process_time()
    assert sentences("." * 50_000 + "7\n" + "a.") == ["." * 50_000 + "7\n", "a."]
    assert time.process_time() - start < 2


OFFLINE = """
import socket, sys
from llama_index.core import Document, VectorStoreIndex
from libertai_llm.llama_index import Libertai, LibertaiEmbedding, configure
try:
    socket.create_connection(("1.1.1.1", 443), timeout=2)
except OSError:
    print("no network")
llm = Libertai(engine=sys.argv[1], max_tokens=4, temperature=0)
configure(llm, LibertaiEmbedding(engine=sys.argv[2]))
facts = ["Paris is the capital of France. " * 20, "A banana is yellow. " * 20]
index = VectorStoreIndex.from_documents([Document(text=fact) for fact in facts])
answer = index.as_query_engine(similarity_top_k=1).query("What is the capital of France?")
print("source:", answer.source_nodes[0].text[:5], "answered:", bool(str(answer)))
print("foreign:", sorted({"tiktoken", "nltk", "openai"} & set(sys.modules)))
"""


def isolated() -> list[str]:
    """How to start a program in a network namespace without any interface; skips if not allowed."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not installed")
    command = [unshare, "-rn"]
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine allows no network namespaces")
    return command


def test_everything_works_without_a_network(tmp_path: Path, minilm: str) -> None:
    """Index, splitter, embeddings and answers, with no interface, no home and no caches.

    Where LlamaIndex's data would be looked for, there is none.
    """
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HOME": str(tmp_path),
        "NLTK_DATA": str(tmp_path),
        "TIKTOKEN_CACHE_DIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    command = [*isolated(), sys.executable, "-c", OFFLINE, "demo", minilm]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "no network",
        "source: Paris answered: True",
        "foreign: []",
    ]
