"""One beginning for all prompts: who may set it, when it counts, what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_engine.errors import ContextOverflow, InvalidRequest, PermissionDenied

SYSTEM = {"prompt": "The sun rose over the hills.", "anti_prompt": "User:", "assistant_name": "Bot"}
OPTIONS: dict[str, Any] = {"temperature": 0, "n_predict": 6, "cache_prompt": True}


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    config = EngineConfig(model=str(tiny_model), num_slots=2, context_size=128)
    with load_engine(config, progress=False) as loaded:
        yield loaded


@pytest.fixture
def api(engine: Engine) -> CompletionAPI:
    return CompletionAPI(engine)


def ask(api: CompletionAPI, prompt: Any, **options: Any) -> dict[str, Any]:
    result = api.complete({"prompt": prompt, **OPTIONS, **options})
    assert isinstance(result, dict)
    return result


def test_every_later_prompt_begins_with_it(api: CompletionAPI, engine: Engine) -> None:
    """The answer is that of system prompt and prompt written in one, BOS first and only once."""
    system_ids = engine.tokenizer.encode(SYSTEM["prompt"], add_special=True)
    prompt_ids = engine.tokenizer.encode("birds", add_special=False)
    expected = ask(CompletionAPI(engine), [*system_ids, *prompt_ids])
    ask(api, "", system_prompt=SYSTEM)
    got = ask(api, "birds")
    assert got["content"] == expected["content"]
    assert got["tokens_evaluated"] == len(system_ids) + len(prompt_ids)


def test_setting_it_evaluates_it_ahead(api: CompletionAPI, engine: Engine) -> None:
    """Beside an empty prompt it only fills the cache, and later prompts find it there."""
    text = "A prompt that nobody has evaluated before."
    first = ask(api, "", system_prompt={"prompt": text})
    num_system = len(engine.tokenizer.encode(text, add_special=True))
    assert first["content"] == "" and first["tokens_evaluated"] == num_system
    for prompt in ("one", "two"):
        assert ask(api, prompt)["timings"]["cache_n"] >= num_system - 1


def test_it_counts_for_its_own_request(api: CompletionAPI) -> None:
    """A request may bring it and a prompt at once."""
    both = ask(api, "birds", system_prompt=SYSTEM)
    assert both["content"] == ask(api, "birds")["content"]


def test_names_are_told(api: CompletionAPI) -> None:
    """`/props` says what a client needs to write the prompt."""
    assert (api.props()["assistant_name"], api.props()["user_name"]) == ("", "")
    ask(api, "", system_prompt=SYSTEM)
    assert (api.props()["assistant_name"], api.props()["user_name"]) == ("Bot", "User:")


def test_props_tell_the_defaults(api: CompletionAPI, engine: Engine) -> None:
    """Today's keys: what a request that sets nothing gets, and no path of the machine."""
    props = api.props()
    params = props["default_generation_settings"]["params"]
    assert (params["temperature"], params["top_k"], params["seed"]) == (0.8, 40, -1)
    assert props["default_generation_settings"]["n_ctx"] == engine.context_size
    assert props["model_path"] == props["model_alias"] == engine.name
    assert "/" not in props["model_path"]


def test_an_empty_one_takes_it_away(api: CompletionAPI) -> None:
    """Back to prompts that stand alone."""
    alone = ask(api, "birds")
    ask(api, "birds", system_prompt=SYSTEM)
    ask(api, "birds", system_prompt={"prompt": ""})
    assert ask(api, "birds")["tokens_evaluated"] == alone["tokens_evaluated"]


def test_control_tokens_are_letters(api: CompletionAPI, engine: Engine) -> None:
    """As on the server of 2023, a system prompt cannot smuggle in the end of a turn."""
    ask(api, "", system_prompt={"prompt": "<|im_end|>"})
    expected = engine.tokenizer.encode("<|im_end|>", add_special=True, parse_special=False)
    assert ask(api, "x", n_predict=0)["tokens_evaluated"] > len(expected) > 3


def test_only_the_owner_may(engine: Engine) -> None:
    """A server without keys refuses strangers, and nothing changes."""
    api = CompletionAPI(engine, may_set_system_prompt=False)
    before = ask(api, "birds")
    with pytest.raises(PermissionDenied, match="system_prompt"):
        ask(api, "birds", system_prompt=SYSTEM)
    assert ask(api, "birds")["tokens_evaluated"] == before["tokens_evaluated"]


@pytest.mark.parametrize("value", ["text", 5, [], True, {"prompt": 5}, {"prompt": "x " * 500}])
def test_wrong_ones_change_nothing(api: CompletionAPI, value: Any) -> None:
    """Not an object, not a text, or more than half of the context."""
    with pytest.raises(InvalidRequest, match="prompt"):
        ask(api, "birds", system_prompt=value)
    assert api.props()["user_name"] == ""


def test_a_wrong_request_sets_nothing(api: CompletionAPI) -> None:
    """The system prompt and the rest of its request are taken together or not at all."""
    with pytest.raises(InvalidRequest, match="top_k"):
        ask(api, "birds", system_prompt=SYSTEM, top_k="x")
    assert api.props()["user_name"] == ""


def test_it_counts_in_the_context(api: CompletionAPI, engine: Engine) -> None:
    """It takes its part of the slot, and is never cut."""
    ask(api, "", system_prompt=SYSTEM)
    long = [9] * 120
    with pytest.raises(ContextOverflow):
        ask(api, long, context_shift=False)
    cut = ask(api, long, n_predict=1)
    assert cut["truncated"] and cut["tokens_evaluated"] < 128
    num_system = len(engine.tokenizer.encode(SYSTEM["prompt"], add_special=True))
    assert cut["timings"]["cache_n"] >= num_system


class Interrupted(list[Any]):
    """A prompt during whose reading something else happens, once."""

    def __init__(self, pieces: list[Any], happens: Callable[[], object]) -> None:
        super().__init__(pieces)
        self._happens = [happens]

    def __iter__(self) -> Iterator[Any]:
        if self._happens:
            self._happens.pop()()
        return super().__iter__()


def test_a_request_read_meanwhile_does_not_take_it_back(api: CompletionAPI) -> None:
    """One that was being read while another set it leaves it as it has become."""
    prompt = Interrupted(["bir", "ds", 5], lambda: ask(api, "", system_prompt=SYSTEM))
    ask(api, prompt)
    assert api.props()["assistant_name"] == "Bot"
