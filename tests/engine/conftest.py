"""A real engine behind a real server, made once a session, for tests that ask over HTTP.

In: nothing. Out: a model with room for long answers, its engine of two slots, its server; a model
of each vision family.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from tests.engine.serving import LONG_CONTEXT, REFERENCE, Running, running, timeless
from tests.fake_vision import VISION_FAMILIES, save_vision_model
from tests.fakes import save_tiny_model


@pytest.fixture(scope="session")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model with room for long answers. Read it, never write."""
    folder = tmp_path_factory.mktemp("long_model")
    return save_tiny_model(folder, max_position_embeddings=LONG_CONTEXT)


@pytest.fixture(scope="session")
def vision_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny models that are shown images, by family. Read them, never write."""
    return {
        family: save_vision_model(tmp_path_factory.mktemp(family), family)
        for family in VISION_FAMILIES
    }


@pytest.fixture(scope="session")
def engine(long_model: Path) -> Iterator[Engine]:
    config = EngineConfig(model=str(long_model), num_slots=2, batch_size=16, threads=1)
    with load_engine(config, progress=False) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def server(engine: Engine) -> Iterator[Running]:
    with running(CompletionAPI(engine)) as running_server:
        yield running_server


@pytest.fixture(scope="session")
def reference(server: Running) -> dict[str, Any]:
    """The answer to `REFERENCE` as it must always be."""
    return timeless(server.post("/completion", REFERENCE))
