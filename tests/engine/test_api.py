"""The quick routes of the llama-like API: text to tokens and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import load_engine
from libertai_engine.errors import InvalidRequest


@pytest.fixture(scope="module")
def api(tiny_model: Path) -> Iterator[CompletionAPI]:
    with load_engine(EngineConfig(model=str(tiny_model)), progress=False) as engine:
        yield CompletionAPI(engine)


def test_content_may_be_an_array_of_texts_and_tokens(api: CompletionAPI) -> None:
    """Each text is read for itself, ids stay; BOS, if wished, stands in front of a first text."""
    first, second = (api.tokenize({"content": text})["tokens"] for text in ("birds", "sang"))
    mixed = ["birds", 7, "sang"]
    assert api.tokenize({"content": mixed})["tokens"] == [*first, 7, *second]
    bos = api.engine.tokenizer.bos_id
    with_bos = api.tokenize({"content": mixed, "add_special": True})["tokens"]
    assert with_bos == [bos, *first, 7, *second]
    assert api.tokenize({"content": [7], "add_special": True}) == {"tokens": [7]}
    assert api.tokenize({"content": []}) == {"tokens": []}


@pytest.mark.parametrize("content", [5, {}, [None], [1.5], [True], [["a"]], [10**9], ["\ud800"]])
def test_wrong_content_names_the_field(api: CompletionAPI, content: Any) -> None:
    """Anything else is refused."""
    with pytest.raises(InvalidRequest, match="content"):
        api.tokenize({"content": content})
