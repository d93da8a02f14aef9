"""OpenAI's bodies to requests: whose names mean what, and what is refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from libertai_engine.errors import EngineError, InvalidRequest, NotSupported
from libertai_engine.openai_wire.parse import OpenAICall, parse_chat_body, parse_text_body
from libertai_engine.sampling_params import SamplingParams
from libertai_engine.sequence import Request
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.wire.parse import Limits
from tests.engine.text.test_tokenizer import byte_level
from tests.fakes import tiny_tokenizer

LIMITS = Limits(num_slots=4, context_size=512)
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tiny_tokenizer())


def chat(tokenizer: Tokenizer, **fields: Any) -> OpenAICall:
    return parse_chat_body({"messages": MESSAGES, **fields}, tokenizer, LIMITS)


def text(tokenizer: Tokenizer, **fields: Any) -> OpenAICall:
    return parse_text_body({"prompt": "Hi", **fields}, tokenizer, LIMITS)


def request_of(call: OpenAICall) -> Request:
    (request,) = call.requests
    return request


def test_defaults_are_those_of_todays_llama_server(tokenizer: Tokenizer) -> None:
    """No repetition penalty, the cache is used, nothing is cut, the answer has no limit."""
    for call in (chat(tokenizer), text(tokenizer)):
        request = request_of(call)
        assert request.sampling == SamplingParams(repeat_penalty=1.0)
        assert request.max_tokens is None and request.stop == () and request.slot is None
        assert request.cache_prompt and not request.can_shift
        assert not call.with_logprobs and not call.with_usage and call.echoes == ("",)


def test_null_is_the_default(tokenizer: Tokenizer) -> None:
    """Clients send null for what they were not given."""
    names = (
        "temperature top_p n seed stop max_tokens max_completion_tokens logit_bias logprobs "
        "top_logprobs presence_penalty frequency_penalty response_format tools tool_choice "
        "stream_options user modalities repeat_penalty cache_prompt"
    ).split()
    nulls = dict.fromkeys(names)
    assert chat(tokenizer, **nulls) == chat(tokenizer)


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ({"temperature": 0}, "temperature", 0.0),
        ({"top_p": 0.5}, "top_p", 0.5),
        ({"presence_penalty": 1.5}, "presence_penalty", 1.5),
        ({"frequency_penalty": -2}, "frequency_penalty", -2.0),
        ({"logit_bias": {"7": -100, "8": 3}}, "logit_bias", ((7, -100.0), (8, 3.0))),
        ({"seed": 42}, "seed", 42),
        ({"seed": -1}, "seed", None),
        ({"seed": 2**63 - 1}, "seed", (2**63 - 1) % (2**32 - 1)),
        ({"top_k": 3}, "top_k", 3),
        ({"min_p": 0.2}, "min_p", 0.2),
        ({"repeat_penalty": 1.2}, "repeat_penalty", 1.2),
        ({"mirostat": 2}, "mirostat", 2),
    ],
)
def test_sampling_options(
    tokenizer: Tokenizer, fields: dict[str, Any], name: str, expected: Any
) -> None:
    """OpenAI's own, and what llama.cpp's samplers have beyond them, on both routes."""
    for call in (chat(tokenizer, **fields), text(tokenizer, **fields)):
        assert getattr(request_of(call).sampling, name) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6, "max_tokens": 5}, 6),
        ({"n_predict": 7}, 7),
        ({"max_tokens": -1}, None),
        ({"max_tokens": 0}, 0),
    ],
)
def test_the_limit_has_three_names(
    tokenizer: Tokenizer, fields: dict[str, Any], expected: int | None
) -> None:
    """The newest one wins."""
    assert request_of(chat(tokenizer, **fields)).max_tokens == expected


def test_stop_words(tokenizer: Tokenizer) -> None:
    """One or several; a model without a template also stops where ChatML ends a turn."""
    assert request_of(chat(tokenizer, stop="x")).stop == ("x",)
    assert request_of(chat(tokenizer, stop=["x", "y"])).stop == ("x", "y")
    plain = Tokenizer(byte_level(eos_token="<|endoftext|>"))
    assert request_of(chat(plain)).stop == ("<|im_end|>",)
    assert request_of(chat(plain, stop="x")).stop == ("x", "<|im_end|>")
    assert request_of(chat(plain, stop=["x"])).stop == ("x", "<|im_end|>")
    with pytest.raises(InvalidRequest, match="`stop`"):
        chat(plain, stop=5)


def test_choices_of_each_prompt(tokenizer: Tokenizer) -> None:
    """Prompt by prompt, numbered through, with seeds that count up."""
    call = text(tokenizer, prompt=["one", "two"], n=3, best_of=3, seed=7)
    assert [each.index for each in call.requests] == list(range(6))
    assert [each.sampling.seed for each in call.requests] == [7, 8, 9, 7, 8, 9]
    one, two = (tuple(tokenizer.encode(each, add_special=True)) for each in ("one", "two"))
    assert [each.prompt_ids for each in call.requests] == [one] * 3 + [two] * 3
    assert [each.sampling.seed for each in text(tokenizer, n=2).requests] == [None, None]


def test_prompt_forms(tokenizer: Tokenizer) -> None:
    """A text, an array of one, token ids, several of either."""
    hi = tuple(tokenizer.encode("Hi", add_special=True))
    assert request_of(text(tokenizer, prompt=["Hi"])).prompt_ids == hi
    assert request_of(text(tokenizer, prompt=[5, 6])).prompt_ids == (5, 6)
    several = text(tokenizer, prompt=[[5, 6], [7]]).requests
    assert [each.prompt_ids for each in several] == [(5, 6), (7,)]


def test_echo_repeats_the_prompt_as_it_was_given(tokenizer: Tokenizer) -> None:
    """Token ids are repeated as text."""
    assert text(tokenizer, prompt=["Hi", "Ho"], echo=True).echoes == ("Hi", "Ho")
    ids = tokenizer.encode("one two", add_special=False)
    assert text(tokenizer, prompt=ids, echo=True).echoes == (" one two",)


def test_logprobs_have_two_shapes(tokenizer: Tokenizer) -> None:
    """A flag and a number for chats, one number for texts; they never touch the choice."""
    assert request_of(chat(tokenizer, logprobs=True)).sampling.num_logprobs == 0
    assert request_of(chat(tokenizer, logprobs=True, top_logprobs=5)).sampling.num_logprobs == 5
    assert request_of(chat(tokenizer, logprobs=False)).sampling.num_logprobs is None
    assert request_of(text(tokenizer, logprobs=0)).sampling.num_logprobs == 0
    assert request_of(text(tokenizer, logprobs=False)).sampling.num_logprobs is None
    call = text(tokenizer, logprobs=5, n_probs=3)
    assert call.with_logprobs and request_of(call).sampling.num_logprobs == 5
    assert request_of(call).sampling.num_probs == 0


def test_usage_of_a_stream_is_asked_for(tokenizer: Tokenizer) -> None:
    """As OpenAI has it; other stream options are passed over."""
    options = {"include_usage": True, "include_obfuscation": False}
    assert chat(tokenizer, stream_options=options).with_usage
    assert not chat(tokenizer, stream_options={}).with_usage


def test_a_suffix_makes_a_gap() -> None:
    """The older route's way to fill in the middle, for a model that can."""
    hf = tiny_tokenizer()
    names = ["▁<PRE>", "▁<SUF>", "▁<MID>"]
    hf.add_special_tokens({"additional_special_tokens": names})
    coder = Tokenizer(hf)
    ids = request_of(text(coder, prompt="def", suffix="end")).prompt_ids
    assert (ids[0], ids[1], ids[-1]) == (1, *hf.convert_tokens_to_ids([names[0], names[2]]))
    assert coder.decode(ids) == " defend"
    with pytest.raises(InvalidRequest, match="`prompt`"):
        text(coder, prompt=[5, 6], suffix="end")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": math.inf}, "temperature"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": -2}, "max_tokens"),
    ({"max_completion_tokens": 2**31}, "max_completion_tokens"),
    ({"n": 0}, "n"),
    ({"n": 33}, "n"),
    ({"seed": 2**63}, "seed"),
    ({"seed": "x"}, "seed"),
    ({"stop": [5]}, "stop"),
    ({"logit_bias": 5}, "logit_bias"),
    ({"top_p": []}, "top_p"),
    ({"stream_options": 5}, "stream_options"),
    ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ({"response_format": "json"}, "response_format"),
    ({"id_slot": 4}, "id_slot"),
]
WRONG_CHAT: list[tuple[dict[str, Any], str]] = [
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logprobs": "yes"}, "logprobs"),
    ({"modalities": "text"}, "modalities"),
    ({"messages": []}, "messages"),
]
WRONG_TEXT: list[tuple[dict[str, Any], str]] = [
    ({"logprobs": 21}, "logprobs"),
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": ["a"] * 33}, "prompt"),
    ({"prompt": ["a"] * 17, "n": 2}, "n"),
    ({"prompt": [10**9]}, "prompt"),
    ({"prompt": {}}, "prompt"),
    ({"echo": "yes"}, "echo"),
    ({"suffix": 5}, "suffix"),
    ({"best_of": "x"}, "best_of"),
]
UNSUPPORTED: list[dict[str, Any]] = [
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
    {"grammar": 'root ::= "a"'},
    {"json_schema": {"type": "object"}},
    {"system_prompt": {"prompt": "x"}},
    {"image_data": [{"data": "", "id": 1}]},
    {"audio": {"voice": "x"}},
    {"web_search_options": {"x": 1}},
]


def refusal(tokenizer: Tokenizer, parse: Any, fields: dict[str, Any]) -> EngineError:
    with pytest.raises(EngineError) as caught:
        parse(tokenizer, **fields)
    return caught.value


@pytest.mark.parametrize(
    ("parse", "fields", "named"),
    [(chat, *case) for case in (*WRONG, *WRONG_CHAT)]
    + [(text, *case) for case in (*WRONG, *WRONG_TEXT)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_values_name_their_field(
    tokenizer: Tokenizer, parse: Any, fields: dict[str, Any], named: str
) -> None:
    """Under the name that the caller used."""
    error = refusal(tokenizer, parse, fields)
    assert isinstance(error, InvalidRequest)
    assert error.field == named and f"`{named}`" in str(error)


@pytest.mark.parametrize("fields", UNSUPPORTED, ids=lambda fields: next(iter(fields)))
def test_what_is_not_supported_is_never_ignored(
    tokenizer: Tokenizer, fields: dict[str, Any]
) -> None:
    """Refused by name, on both routes; the harmless form of it is no matter."""
    name = next(iter(fields))
    for parse in (chat, text):
        error = refusal(tokenizer, parse, fields)
        assert isinstance(error, NotSupported) and error.field == name
        assert f"`{name}`" in str(error)
    assert chat(tokenizer, response_format={"type": "text"}, modalities=["text"])


@pytest.mark.parametrize(
    ("parse", "fields"),
    [
        (chat, {"modalities": ["text", "audio"]}),
        (chat, {"tools": [{"type": "function"}]}),
        (text, {"best_of": 3}),
        (text, {"echo": True, "logprobs": 1}),
        (text, {"suffix": "x"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_one_route_does_not_support(
    tokenizer: Tokenizer, parse: Any, fields: dict[str, Any]
) -> None:
    """The same for what only one of them knows."""
    assert isinstance(refusal(tokenizer, parse, fields), NotSupported)


FIELDS = (
    "temperature top_p top_k min_p n seed stop max_tokens max_completion_tokens n_predict "
    "logit_bias logprobs top_logprobs presence_penalty frequency_penalty repeat_penalty "
    "response_format stream_options tools tool_choice functions function_call messages prompt "
    "suffix echo best_of modalities user metadata id_slot cache_prompt ignore_eos grammar "
    "json_schema chat_template chat_template_kwargs system_prompt image_data n_probs model"
).split()
VALUES = ["5", "x", True, -1, 0, 1.5, 2**31, 2**63, 10**400, math.nan, [], {}, [[]], [{}], [None]]


@pytest.mark.parametrize("parse", [chat, text])
@pytest.mark.parametrize("field", FIELDS)
def test_every_field_with_every_type(tokenizer: Tokenizer, parse: Any, field: str) -> None:
    """Understood, passed over, or refused by its name: nothing else ever comes out."""
    for value in VALUES:
        try:
            parse(tokenizer, **{field: value})
        except EngineError as error:
            assert isinstance(error, (InvalidRequest, NotSupported)), value
            named = error.field or ""
            assert named.startswith(field) and f"`{named}" in str(error), (value, error)
