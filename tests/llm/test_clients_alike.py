"""The blocking and the asynchronous client have the same face."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from libertai_llm import AsyncClient, Client

RENAMED = {"close": "aclose", "__enter__": "__aenter__", "__exit__": "__aexit__"}
NAMES = [
    name
    for name in vars(Client)
    if callable(getattr(Client, name)) and (not name.startswith("_") or name in RENAMED)
]


def parameters(method: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults."""
    found = inspect.signature(method).parameters.values()
    return [(each.name, each.kind, each.default) for each in found]


@pytest.mark.parametrize("name", NAMES)
def test_methods_take_the_same(name: str) -> None:
    """Whoever knows one client knows the other."""
    twin = getattr(AsyncClient, RENAMED.get(name, name))
    assert parameters(getattr(Client, name)) == parameters(twin)
    assert twin.__doc__ == getattr(Client, name).__doc__


def test_they_are_made_from_the_same() -> None:
    """Only the HTTP library's own object differs."""
    ours, theirs = (parameters(kind.__init__) for kind in (Client, AsyncClient))
    assert [each for each in ours if each[0] != "session"] == [
        each for each in theirs if each[0] != "http_client"
    ]


def test_nothing_is_missing() -> None:
    """Every public method of the one exists on the other."""
    public = {name for name in vars(AsyncClient) if not name.startswith("_")}
    assert public == {RENAMED.get(name, name) for name in vars(Client) if not name.startswith("_")}
