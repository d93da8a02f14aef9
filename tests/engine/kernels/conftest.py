"""The library under test, and weights of every kind."""

from __future__ import annotations

import pytest

from libertai_engine.kernels import library
from libertai_engine.kernels.library import Library


@pytest.fixture(scope="session")
def native() -> Library:
    """This machine's library; without one the test is skipped, and says why."""
    found = library.native()
    if not isinstance(found, Library):
        pytest.skip(found.reason)
    return found
