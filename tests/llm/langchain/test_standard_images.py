"""LangChain's standard suite of a model that sees, a tiny one of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests, chat_models

from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_llm.langchain import ChatLibertai
from tests.fake_vision import GREEDY, encode, picture, save_vision_model


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder: Path = save_vision_model(tmp_path_factory.mktemp("llava"), max_position_embeddings=1024)
    config = EngineConfig(model=str(folder), num_slots=2, batch_size=32)
    with load_engine(config, progress=False) as loaded:
        yield loaded


class TestSeeing(ChatModelIntegrationTests):
    """Images of users and of tools. What needs trained weights is in the other suites."""

    @pytest.fixture(autouse=True)
    def _use(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = engine
        shown = SimpleNamespace(content=encode(picture(3)))
        # The suite fetches its image; the tests have no network.
        monkeypatch.setattr(chat_models.httpx, "get", lambda *_, **__: shown)

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatLibertai

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"engine": self.engine, "max_tokens": 8, **GREEDY}

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False
