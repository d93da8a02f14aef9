"""Tiny models gain nothing from more threads, and lose much on a busy machine.

In: nothing. Out: one torch thread while the tests of this folder run.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
