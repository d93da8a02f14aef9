"""What the tests of the LangChain classes share.

In: nothing. Out: a scripted server, and one engine on the tiny random model with a real HTTP server
in front of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_llm.langchain import ChatLibertai, Libertai, LibertaiLLM
from tests.engine.serving import Running, running
from tests.llm.langchain.scripted import ScriptedServer, scripted_server


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests say themselves where calls go."""
    for name in ("LIBERTAI_API_BASE", "LIBERTAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as script:
        yield script


@pytest.fixture(scope="session")
def tiny_engine(tiny_model: Path) -> Iterator[Engine]:
    """One engine on a random Llama, with four slots."""
    config = EngineConfig(model=str(tiny_model), alias="tiny", num_slots=4, threads=1)
    with load_engine(config, progress=False) as engine:
        yield engine


@pytest.fixture(scope="session")
def tiny_server(tiny_engine: Engine) -> Iterator[Running]:
    """The same engine over HTTP."""
    with running(CompletionAPI(tiny_engine)) as server:
        yield server


@pytest.fixture(scope="session")
def demo_engine() -> Iterator[Engine]:
    """One engine on the bundled model."""
    config = EngineConfig(model="demo", num_slots=4, threads=1)
    with load_engine(config, progress=False) as engine:
        yield engine


@pytest.fixture(scope="session")
def demo_url(demo_engine: Engine) -> Iterator[str]:
    """The same engine over HTTP."""
    with running(CompletionAPI(demo_engine)) as server:
        yield server.url


@pytest.fixture(scope="session", autouse=True)
def _our_classes_may_be_loaded() -> None:
    """Let the standard serialisation test, which gives no class by name, revive ours."""
    loading = importlib.import_module("langchain_core.load.load")
    for kind in (ChatLibertai, LibertaiLLM, Libertai):
        name = tuple(kind.lc_id())
        loading.ALL_SERIALIZABLE_MAPPINGS[name] = name
    loading._default_class_paths_cache.clear()
