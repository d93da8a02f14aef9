"""The quick routes of the llama-like API: text to tokens and back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_engine.errors import InvalidRequest
from libertai_engine.model.loader import LoadedModel, load_model
from libertai_engine.model.runner import ModelRunner
from libertai_engine.openai_api import OpenAIAPI
from libertai_engine.text.tokenizer import Tokenizer


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


class Watched(Tokenizer):
    """Remembers which threads asked it for the text of tokens."""

    def __init__(self, model: LoadedModel) -> None:
        self.threads: set[int] = set()
        super().__init__(model.tokenizer, eos_ids=model.eos_ids)

    def token_bytes(self, token_id: int) -> bytes:
        self.threads.add(threading.get_ident())
        return super().token_bytes(token_id)


async def test_probabilities_are_put_into_words_aside(tiny_model: Path) -> None:
    """A hundred texts a token: an event loop has others to serve, on both APIs."""
    config = EngineConfig(model=str(tiny_model))
    model = load_model(config, progress=False)
    runner = ModelRunner(model.module, num_slots=1, context_size=64, device=model.device)
    tokenizer = Watched(model)
    with Engine(runner, tokenizer, config, model) as engine:
        tokenizer.threads.clear()
        body = {"prompt": "a", "max_tokens": 3, "n_predict": 3}
        told = await CompletionAPI(engine).acomplete({**body, "n_probs": 2})
        assert isinstance(told, dict) and told["completion_probabilities"]
        assert (await OpenAIAPI(engine).text({**body, "logprobs": 2}))["choices"][0]["logprobs"]
    assert tokenizer.threads and threading.get_ident() not in tokenizer.threads
