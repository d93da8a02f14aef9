"""One shape for the answers of every generation of servers."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libertai_llm.errors import InvalidReply
from libertai_llm.probs import TokenProb
from libertai_llm.types import Completion, Props, Timings, TokenPiece, slot_of, tokens_of

# December 2023: `slot_id`, flags, `timings` with nulls, `tokens_cached` = length in the cache.
OLD: dict[str, Any] = {
    "content": " world",
    "generation_settings": {"n_ctx": 512, "temp": 0.8},
    "model": "models/7B/model.gguf",
    "prompt": "hello",
    "slot_id": 0,
    "stop": True,
    "stopped_eos": True,
    "stopped_limit": True,
    "stopped_word": False,
    "stopping_word": "",
    "timings": {
        "predicted_ms": 50.0,
        "predicted_n": 5,
        "predicted_per_second": 100.0,
        "predicted_per_token_ms": 10.0,
        "prompt_ms": 12.5,
        "prompt_n": 3,
        "prompt_per_second": None,
        "prompt_per_token_ms": None,
    },
    "tokens_cached": 15,
    "tokens_evaluated": 10,
    "tokens_predicted": 5,
    "truncated": False,
}
# Today: `id_slot`, `stop_type`, `cache_n`.
TODAY: dict[str, Any] = {
    "index": 0,
    "content": " world",
    "tokens": [],
    "id_slot": 3,
    "stop": True,
    "model": "gpt-oss",
    "tokens_predicted": 5,
    "tokens_evaluated": 10,
    "stop_type": "word",
    "stopping_word": "\n",
    "truncated": True,
    "tokens_cached": 14,
    "timings": {"cache_n": 7, "prompt_n": 3, "prompt_ms": 1.0, "predicted_n": 5},
}


def test_december_2023() -> None:
    """Flags may both be true: the end of the text wins over the limit."""
    answer = Completion.from_wire(OLD)
    assert (answer.content, answer.stop_type, answer.slot_id) == (" world", "eos", 0)
    assert (answer.tokens_evaluated, answer.tokens_predicted, answer.tokens_cached) == (10, 5, 7)
    assert answer.timings.prompt_per_second is None
    assert answer.timings.predicted_per_second == 100.0
    assert answer.generation_settings["temp"] == 0.8 and answer.raw is OLD


def test_today() -> None:
    """The same shape from today's words."""
    answer = Completion.from_wire(TODAY)
    assert (answer.content, answer.stop_type, answer.slot_id) == (" world", "word", 3)
    assert answer.stopping_word == "\n" and answer.truncated
    assert (answer.tokens_cached, answer.timings.cache_n) == (7, 7)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ({"stopped_word": True, "stopped_eos": True, "stopped_limit": True}, "word"),
        ({"stopped_limit": True}, "limit"),
        ({"stop_type": "limit", "stopped_eos": True}, "limit"),
        ({"stop_type": "none"}, "none"),
        ({"stop_type": 5, "stopped_eos": 1}, "none"),
        ({}, "none"),
    ],
)
def test_why_it_ended(reply: dict[str, Any], expected: str) -> None:
    """`stop_type`, else the flags by rank; never a guess."""
    assert Completion.from_wire({"content": "", **reply}).stop_type == expected


@pytest.mark.parametrize(
    ("reply", "slot"),
    [
        ({"id_slot": 0, "slot_id": 5}, 0),
        ({"slot_id": 0}, 0),
        ({"id_slot": None, "slot_id": 2}, 2),
        ({"id_slot": -1}, -1),
        ({"slot_id": "3"}, -1),
        ({"slot_id": True}, -1),
        ({"slot_id": 1.5}, -1),
        ({}, -1),
    ],
)
def test_the_slot(reply: dict[str, Any], slot: int) -> None:
    """The first that is present decides, not the first that is true."""
    assert slot_of(reply) == slot


@pytest.mark.parametrize(
    ("timings", "evaluated", "cached"),
    [
        ({"cache_n": 0, "prompt_n": 3}, 10, 0),
        ({"prompt_n": 10}, 10, 0),
        ({"prompt_n": 0}, 10, 10),
        ({"prompt_n": 12}, 10, 0),
        ({"prompt_n": None}, 10, 0),
        (None, 10, 0),
    ],
)
def test_reused_tokens(timings: Any, evaluated: int, cached: int) -> None:
    """What was not evaluated again was reused; if the server does not say, nothing is claimed."""
    reply = {"content": "", "timings": timings, "tokens_evaluated": evaluated, "tokens_cached": 99}
    assert Completion.from_wire(reply).tokens_cached == cached


def test_probabilities_of_2023() -> None:
    """`tok_str` and `prob`; the chosen token is found among the listed ones, or not told."""
    entries = [
        {"content": " a", "probs": [{"tok_str": " a", "prob": 0.5}, {"tok_str": "b", "prob": 0.0}]},
        {"content": "x", "probs": [{"tok_str": "byte: \\xf0", "prob": 1.0}]},
    ]
    first, second = Completion.from_wire({"content": "", "completion_probabilities": entries}).probs
    assert first.chosen == TokenProb(token=" a", piece=b" a", logprob=math.log(0.5))
    assert first.top[1].logprob == -math.inf and first.top[1].prob == 0
    assert second.chosen.logprob is None and second.chosen.prob is None
    assert second.top[0].piece == b"\xf0" and second.top[0].prob == 1


def test_probabilities_of_today() -> None:
    """Log probabilities before sampling, or plain ones after it."""
    before = {
        "id": 5, "token": "\ufffd", "bytes": [240], "logprob": -0.5,
        "top_logprobs": [{"id": 5, "token": "\ufffd", "bytes": [240], "logprob": -0.5}],
    }  # fmt: skip
    after = {"id": 6, "token": "b", "bytes": [98], "prob": 1.0,
             "top_probs": [{"id": 6, "token": "b", "bytes": [98], "prob": 1.0}]}  # fmt: skip
    entries = [before, after]
    first, second = Completion.from_wire({"content": "", "completion_probabilities": entries}).probs
    assert first.chosen == first.top[0]
    assert first.chosen == TokenProb(token="\ufffd", piece=b"\xf0", logprob=-0.5, id=5)
    assert second.chosen.logprob == 0 and second.top[0].id == 6


def test_props() -> None:
    """What each generation tells of itself, and what it does not."""
    today = Props.from_wire(
        {
            "default_generation_settings": {"params": {}, "n_ctx": 4096},
            "total_slots": 4,
            "model_alias": "",
            "model_path": "m.gguf",
            "chat_template": "{{ x }}",
            "bos_token": "<s>",
            "eos_token": "",
        }
    )
    assert (today.context_size, today.total_slots, today.model) == (4096, 4, "m.gguf")
    assert (today.chat_template, today.bos_token, today.eos_token) == ("{{ x }}", "<s>", None)
    old = Props.from_wire({"assistant_name": "", "user_name": ""})
    assert old == Props(raw={"assistant_name": "", "user_name": ""})
    early = Props.from_wire({"default_generation_settings": {"n_ctx": 512, "model": "f"}})
    assert (early.context_size, early.model) == (512, "f")


def test_tokens() -> None:
    """Ids, or ids with pieces that need not be text."""
    pieces = [{"id": 1, "piece": "é"}, {"id": 2, "piece": [240]}, {"id": 3}]
    assert tokens_of({"tokens": [1, 2]}) == [1, 2]
    assert tokens_of({"tokens": pieces}) == [
        TokenPiece(id=1, piece="é".encode()),
        TokenPiece(id=2, piece=b"\xf0"),
        TokenPiece(id=3, piece=b""),
    ]
    assert tokens_of({"tokens": [{"id": 1, "piece": "\ud800"}]}) == [TokenPiece(id=1, piece=b"?")]
    for bad in ({}, {"tokens": None}, {"tokens": ["a"]}, {"tokens": [{"piece": "x"}]}):
        with pytest.raises(InvalidReply):
            tokens_of(bad)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(OLD)), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted({*OLD, *TODAY, "completion_probabilities"})), JUNK))
def test_garbled_facts_never_break_a_text(reply: dict[str, Any]) -> None:
    """With a text there is an answer, whatever else the object holds."""
    answer = Completion.from_wire({**reply, "content": "text"})
    assert answer.content == "text" and answer.slot_id >= -1
    assert answer.tokens_cached >= 0 and isinstance(answer.model, str)
    Timings.from_wire(reply)
    Props.from_wire(reply)


@pytest.mark.parametrize("number", [10**400, math.nan, math.inf, True, "1", [1]])
def test_numbers_that_are_none(number: Any) -> None:
    """Huge, not finite, or no numbers at all: not told."""
    assert Timings.from_wire({"prompt_ms": number}).prompt_ms is None
    entries = [{"token": "a", "logprob": number, "top_logprobs": [{"token": "b", "prob": number}]}]
    (probs,) = Completion.from_wire({"content": "", "completion_probabilities": entries}).probs
    assert probs.chosen.logprob is None and probs.top[0].prob is None
