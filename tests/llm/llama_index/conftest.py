"""What the tests of the LlamaIndex class share.

In: nothing. Out: a scripted server; one engine on a tiny random model with a real HTTP server in
front of it; and `make_llm`, through which the conformance tests make every model they test.

To hold another integration to the conformance tests, give it a `make_llm` of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_llm.llama_index import Libertai
from tests.engine.serving import Running, running
from tests.fakes import save_tiny_model
from tests.llm.langchain.scripted import ScriptedServer, scripted_server

CONTEXT_SIZE = 8192

MakeLLM = Callable[..., Libertai]


class Recorder(BaseEventHandler):
    """Everything that LlamaIndex's instrumentation is told, in order."""

    events: list[Any] = []

    @classmethod
    def class_name(cls) -> str:
        return "Recorder"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        self.events.append(event)

    def names(self) -> list[str]:
        """The kinds of the events so far."""
        return [type(event).__name__ for event in self.events]


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
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One engine on a random Llama with room for long prompts, with four slots."""
    folder: Path = save_tiny_model(
        tmp_path_factory.mktemp("roomy"), max_position_embeddings=CONTEXT_SIZE
    )
    config = EngineConfig(model=str(folder), alias="tiny", num_slots=4, threads=1)
    with load_engine(config, progress=False) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def engine_server(engine: Engine) -> Iterator[Running]:
    """The same engine over HTTP."""
    with running(CompletionAPI(engine)) as server:
        yield server


@pytest.fixture(params=["in-process", "http"])
def make_llm(request: pytest.FixtureRequest) -> Iterator[MakeLLM]:
    """Make models under test: greedy, with short answers; once in this process, once remote."""
    made: list[Libertai] = []

    def make(**options: Any) -> Libertai:
        fields: dict[str, Any] = {"temperature": 0, "max_tokens": 12, **options}
        if request.param == "http":
            fields["base_url"] = request.getfixturevalue("engine_server").url
        else:
            fields["engine"] = request.getfixturevalue("engine")
        made.append(Libertai(callback_manager=CallbackManager([]), **fields))
        return made[-1]

    yield make
    for llm in made:
        llm.close()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """What happens while the test runs."""
    handler = Recorder(events=[])
    dispatcher = get_dispatcher()
    dispatcher.event_handlers.append(handler)
    yield handler
    dispatcher.event_handlers.remove(handler)
