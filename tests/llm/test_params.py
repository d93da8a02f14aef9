"""Options: both spellings, checked before anything is sent, never null on the wire."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libertai_llm.checks import check_prompt
from libertai_llm.endpoint import encode_body
from libertai_llm.errors import InvalidOption, LibertaiError, OptionError, UnknownOption
from libertai_llm.params import (
    OPTION_NAMES,
    CompletionParams,
    completion_body,
    infill_body,
    infill_parts,
)


def wire(**options: Any) -> dict[str, Any]:
    return CompletionParams.from_options(options).to_wire()


def test_nothing_asked_nothing_sent() -> None:
    """Only the cache, and to leave prompts whole; None means the server's default."""
    usual = {"cache_prompt": True, "context_shift": False}
    assert wire() == usual
    assert wire(temperature=None, stop=None, seed=None) == usual
    assert wire(cache_prompt=None, context_shift=None) == {}
    assert wire(cache_prompt=False, context_shift=True) == {
        "cache_prompt": False,
        "context_shift": True,
    }


@pytest.mark.parametrize("name", ["max_tokens", "n_predict", "max_completion_tokens"])
def test_both_spellings(name: str) -> None:
    """Python's name and the wire's name mean the same field."""
    assert wire(**{name: 0})["n_predict"] == 0


@pytest.mark.parametrize("name", ["slot_id", "id_slot"])
def test_the_slot_is_sent_under_both_names(name: str) -> None:
    """Each generation of servers knows one of them; slot 0 is a slot."""
    sent = wire(**{name: 0})
    assert sent["slot_id"] == 0 and sent["id_slot"] == 0


def test_every_option_has_one_meaning() -> None:
    """Giving an option under two names is refused rather than decided."""
    with pytest.raises(InvalidOption, match="twice"):
        wire(max_tokens=1, n_predict=2)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("temprature", "temperature"), ("max_token", "max_tokens"), ("topk", "top_k")],
)
def test_unknown_options(name: str, meant: str) -> None:
    """An unknown name is a TypeError that says what may have been meant."""
    with pytest.raises(UnknownOption, match=f"`{name}`.*`{meant}`") as caught:
        wire(**{name: 1})
    assert isinstance(caught.value, TypeError) and isinstance(caught.value, LibertaiError)
    assert caught.value.field == name
    with pytest.raises(UnknownOption, match="extra_body"):
        wire(zzzzzz=1)


SWITCHES = ("cache_prompt", "context_shift", "return_tokens")
VALUES: dict[str, Any] = {
    "dry_sequence_breakers": ["\n"],
    "samplers": ["top_k"],
    "logit_bias": {1: 2.5},
    "stop": ["\n"],
    "grammar": 'root ::= "x"',
    "json_schema": {"type": "object"},
    "image_data": [{"data": "aGk=", "id": 1}],
    "system_prompt": {"prompt": "be kind"},
}


@pytest.mark.parametrize("name", sorted({each.name for each in fields(CompletionParams)}))
def test_every_option_refuses_foreign_types(name: str) -> None:
    """A server of 2023 ends its process on them, so each field is checked, by name."""
    if name in {"penalize_nl", "ignore_eos", "post_sampling_probs", *SWITCHES}:
        good, bad = True, [1, "true", 0.0]
    elif name in VALUES:
        good, bad = VALUES[name], [5, True, object(), ["a", 1], {"a": object()}]
        bad = bad[:3] + [{1: object()}, [object()]]
    elif name == "extra_body":
        good, bad = {"x": 1}, [5, "x", {1: 2}, {"x": None}, {"top_k": 1}, {"prompt": "y"}]
    else:
        good, bad = 1, [True, "1", [1], {}, math.nan, math.inf, -math.inf, 1e300, 10**40]
    assert wire(**{name: good})
    for value in bad:
        with pytest.raises(OptionError) as caught:
            wire(**{name: value})
        assert caught.value.field and str(caught.value)
        assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("max_tokens", [-1, 0, 2**31 - 1], [-2, 2**31]),
        ("seed", [-1, 0, 2**32 - 1], [-2, 2**32]),
        ("mirostat", [0, 1, 2], [-1, 3]),
        ("n_probs", [0, 100], [-1]),
        ("slot_id", [-1, 0], [-2]),
        ("repeat_last_n", [-1, 0], [-2]),
        ("repeat_penalty", [0.1, 1], [0, -1]),
        ("n_keep", [-1, 0], [-2]),
    ],
)
def test_ranges(name: str, good: list[int], bad: list[int]) -> None:
    """Both ends of each range are inside, their neighbours are not."""
    for value in good:
        wire(**{name: value})
    for value in bad:
        with pytest.raises(InvalidOption, match=name):
            wire(**{name: value})


def test_numbers_of_other_libraries() -> None:
    """NumPy's numbers and whole floats are numbers; what is sent is plain JSON."""
    sent = wire(top_k=np.int64(5), temperature=np.float32(0.5), max_tokens=3.0)
    assert json.loads(encode_body(sent)) == {
        "top_k": 5,
        "temperature": 0.5,
        "n_predict": 3,
        "cache_prompt": True,
        "context_shift": False,
    }


def test_stop_words() -> None:
    """A string is one word; empty ones are left out; order is kept."""
    assert wire(stop="\n")["stop"] == ["\n"]
    assert wire(stop=["b", "", "a"])["stop"] == ["b", "a"]
    assert wire(stop=("a",))["stop"] == ["a"]
    assert wire(stop=[])["stop"] == []


def test_logit_bias_forms() -> None:
    """A mapping or pairs; False and minus infinity ban."""
    expected = [[5, 1.5], [6, False], [7, False]]
    assert wire(logit_bias={5: 1.5, 6: False, 7: -math.inf})["logit_bias"] == expected
    assert wire(logit_bias={"5": 1.5, 6: False, 7: False})["logit_bias"] == expected
    assert wire(logit_bias=[[5, 1.5], (6, False), (7, False)])["logit_bias"] == expected
    assert wire(logit_bias={"word": 1})["logit_bias"] == [["word", 1]]
    assert wire(logit_bias={"٣": 1})["logit_bias"] == [["٣", 1]], "a text, not token 3"
    for bad in (
        {"9" * 5000: 1},
        {5: True},
        {5: "1"},
        {-1: 1},
        {1.5: 1},
        [5, 1],
        [[5]],
        {5: math.nan},
        {5: None},
    ):
        with pytest.raises(InvalidOption, match="logit_bias"):
            wire(logit_bias=bad)


def test_images() -> None:
    """Bytes are encoded, base64 text passes; the rest is refused by place."""
    assert wire(image_data=[{"data": b"hi", "id": 1}])["image_data"] == [{"data": "aGk=", "id": 1}]
    for bad in ([{"data": "x"}], [{"data": 5, "id": 1}], [{"data": "x", "id": "1"}], ["x"]):
        with pytest.raises(InvalidOption, match=r"image_data\[0\]"):
            wire(image_data=bad)


def test_extra_fields() -> None:
    """Unknown fields for the server at hand go through `extra_body` as they are."""
    assert wire(extra_body={"t_max_predict_ms": 5})["t_max_predict_ms"] == 5
    with pytest.raises(InvalidOption, match="of its own"):
        wire(extra_body={"temperature": 1})


def test_prompts() -> None:
    """A text, ids, or ids and texts are one prompt; several texts would be several prompts."""
    for good in ("", "x", "🦙", [1, 2], ["a"], ["a", 1, "b"], (1, 2)):
        assert check_prompt(good) == (good if isinstance(good, str) else list(good))
    for bad in (None, 5, [], ["a", "b"], [None], [1.5], [-1], [True], [[1]], b"x", "\ud800"):
        with pytest.raises(InvalidOption, match="prompt"):
            check_prompt(bad)


def test_bodies() -> None:
    """What the two generating routes get."""
    assert completion_body("x", {"stop": "y"}, is_stream=True) == {
        "prompt": "x", "stream": True, "stop": ["y"], "cache_prompt": True, "context_shift": False,
    }  # fmt: skip
    unset = {"cache_prompt": None, "context_shift": None}
    assert infill_body(infill_parts("a", "b", None, None), unset, is_stream=False) == {
        "input_prefix": "a", "input_suffix": "b", "stream": False,
    }  # fmt: skip
    for bad in (None, 5, "\udfff"):
        with pytest.raises(InvalidOption, match="prefix"):
            infill_parts(bad, "b", None, None)


def test_a_field_without_a_name_is_told_by_where_it_stands() -> None:
    """An error always names a field."""
    with pytest.raises(InvalidOption, match="extra_body") as error:
        CompletionParams(extra_body={"": None})
    assert error.value.field == "extra_body"


def test_what_infill_may_know_besides() -> None:
    """How the missing part begins, and other files by name."""
    parts = infill_parts("a", "b", "c", {"x.py": "1", "y.py": "2"})
    files = [{"filename": "x.py", "text": "1"}, {"filename": "y.py", "text": "2"}]
    assert (parts["prompt"], parts["input_extra"]) == ("c", files)
    for bad in (5, "x", [("x.py", "1")], {"x.py": 1}, {"x.py": "\udfff"}):
        with pytest.raises(InvalidOption, match="files"):
            infill_parts("a", "b", None, bad)
    with pytest.raises(InvalidOption, match="prompt"):
        infill_parts("a", "b", 5, None)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(OPTION_NAMES)), ANYTHING, max_size=4), ANYTHING)
def test_whatever_is_given(options: dict[str, Any], prompt: Any) -> None:
    """Either an error that names a field, or strict JSON without any null at its top."""
    try:
        body = completion_body(prompt, options, is_stream=False)
    except OptionError as error:
        assert error.field
        return
    sent = json.loads(encode_body(body), parse_constant=pytest.fail)
    assert None not in sent.values()
