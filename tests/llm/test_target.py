"""Where calls go: the one rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from libertai_llm import AsyncClient, Client
from libertai_llm.errors import InvalidOption
from tests.llm.conftest import MakeClient


def test_an_address(any_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument wins over the environment."""
    monkeypatch.setenv("LIBERTAI_API_BASE", "http://env/x")
    assert any_client("http://arg/").target == "http://arg"
    assert any_client().target == "http://env/x"


def test_an_engine(any_client: MakeClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model by any name; nothing is loaded before the first call."""
    monkeypatch.setenv("LIBERTAI_API_BASE", "http://env")
    for name in ("demo", "some/hub-id", str(tmp_path), tmp_path):
        assert any_client(engine=name).target == f"engine:{name}"


def test_both_is_an_error(any_client: MakeClient) -> None:
    """Nobody guesses which was meant."""
    with pytest.raises(InvalidOption, match="not both"):
        any_client("http://h", engine="demo")


def test_neither_is_the_demo_with_one_warning(any_client: MakeClient) -> None:
    """The warning says what happens and how to say it oneself, at the caller's line."""
    with pytest.warns(UserWarning, match='engine="demo"') as caught:
        client = any_client()
    assert client.target == "engine:demo" and len(caught) == 1


def test_the_warning_points_at_the_caller() -> None:
    """Not into this package."""
    for kind in (Client, AsyncClient):
        with pytest.warns(UserWarning) as caught:
            kind()
        assert caught[0].filename == __file__


@pytest.mark.parametrize("engine", [5, "", object(), ["demo"], True])
def test_what_is_no_engine(any_client: MakeClient, engine: Any) -> None:
    """Refused at once."""
    with pytest.raises(InvalidOption, match="engine"):
        any_client(engine=engine)
