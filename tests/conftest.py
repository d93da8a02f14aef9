"""Fixtures every test may use.

In: nothing. Out: a folder with a tiny random Llama, made once a session.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import save_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random 2-layer Llama with tokenizer and chat template. Read it, never write."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny_model"))
