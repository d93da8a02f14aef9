"""JSON bodies to requests and back: every coercion, every default, every refusal."""

from __future__ import annotations

import math
from typing import Any

import pytest

from libertai_engine.errors import InvalidRequest, NotSupported
from libertai_engine.sampling.sampler import SampledToken
from libertai_engine.sampling_params import SAMPLERS, SamplingParams
from libertai_engine.sequence import Delta, Finish, FinishReason, Timings
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.wire.format import Answer, format_chunk, format_result, token_text
from libertai_engine.wire.parse import CompletionCall, Limits, parse_completion
from libertai_engine.wire.prompts import encode_prompt, fit_prompt
from tests.fakes import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tiny_tokenizer())


def parse(tokenizer: Tokenizer, **fields: Any) -> CompletionCall:
    limits = Limits(num_slots=4, context_size=512)
    return parse_completion({"prompt": "a", **fields}, tokenizer, limits)


def test_defaults_are_the_documented_ones(tokenizer: Tokenizer) -> None:
    """A bare prompt gets the defaults of the API page."""
    call = parse(tokenizer)
    assert call.requests[0].sampling == SamplingParams()
    assert call.requests[0].max_tokens is None and call.requests[0].slot is None
    assert not call.requests[0].cache_prompt and not call.is_stream and call.requests[0].stop == ()


def test_null_is_the_default(tokenizer: Tokenizer) -> None:
    """A field that is null is a field that is missing."""
    names = ["temperature", "n_predict", "stop", "slot_id", "cache_prompt", "logit_bias", "grammar"]
    assert parse(tokenizer, **dict.fromkeys(names)).requests == parse(tokenizer).requests


def test_unknown_fields_are_ignored(tokenizer: Tokenizer) -> None:
    """Programs send fields of their own, such as the page's `n`."""
    assert (
        parse(tokenizer, n=1, use_default_badwordsids=False).requests == parse(tokenizer).requests
    )


@pytest.mark.parametrize(
    ("field", "value", "name", "expected"),
    [
        ("temperature", 0, "temperature", 0.0),
        ("temperature", True, "temperature", 1.0),
        ("top_k", 3.9, "top_k", 3),
        ("top_k", -1.9, "top_k", -1),
        ("typical_p", 1, "typical_p", 1.0),
        ("repeat_last_n", -1, "penalty_window", -1),
        ("penalize_nl", 0, "penalize_newline", False),
        ("ignore_eos", 2.5, "ignore_eos", True),
        ("seed", -1, "seed", None),
        ("seed", 4294967295, "seed", None),
        ("seed", 42, "seed", 42),
        ("n_probs", 5, "num_probs", 5),
    ],
)
def test_numbers_and_booleans_convert(
    tokenizer: Tokenizer, field: str, value: Any, name: str, expected: Any
) -> None:
    """As on the server of 2023: fractions are cut off, booleans are numbers."""
    assert getattr(parse(tokenizer, **{field: value}).requests[0].sampling, name) == expected


WRONG: list[tuple[str, Any]] = [
    ("temperature", "0.8"),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("temperature", 10**400),
    ("top_k", 2**31),
    ("top_k", []),
    ("repeat_penalty", 0),
    ("repeat_penalty", -1),
    ("repeat_last_n", -2),
    ("mirostat", 3),
    ("seed", -2),
    ("seed", 2**32),
    ("n_predict", -2),
    ("n_predict", 2**31),
    ("n_predict", {}),
    ("n_probs", -1),
    ("n_probs", 10**9),
    ("slot_id", 4),
    ("slot_id", -7),
    ("id_slot", 99),
    ("stop", 5),
    ("stop", [5]),
    ("stop", ["x"] * 65),
    ("stop", ["x" * 1025]),
    ("stop", "\ud800"),
    ("stream", "yes"),
    ("cache_prompt", "true"),
    ("return_tokens", "true"),
    ("speculative.n_max", -1),
    ("speculative.n_max", "many"),
    ("logit_bias", 1),
    ("logit_bias", [[1, 1.0]] * 4097),
    ("logit_bias", [[1, math.inf]]),
    ("logit_bias", [["\ud800", 1]]),
    ("logit_bias", [["a" * 1025, 1]]),
    ("logit_bias", [["\N{OWL}" * 250, 1]] * 5),  # a thousand tokens each
    ("prompt", []),
    ("prompt", {}),
    ("prompt", 5),
    ("prompt", [None]),
    ("prompt", [1.5]),
    ("prompt", [True]),
    ("prompt", [-1]),
    ("prompt", [10**9]),
    ("prompt", None),
    ("prompt", "\ud83d"),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda value: repr(value)[:30])
def test_wrong_values_name_their_field(tokenizer: Tokenizer, field: str, value: Any) -> None:
    """Anything that cannot be meant is refused, and the message says which field."""
    with pytest.raises(InvalidRequest) as caught:
        parse(tokenizer, **{field: value})
    assert caught.value.field == field
    assert field in str(caught.value)


@pytest.mark.parametrize("value", ["yes", "true", [], {}])
def test_what_is_no_boolean_is_told_so(tokenizer: Tokenizer, value: Any) -> None:
    """A message that asked for a number would lead astray."""
    with pytest.raises(InvalidRequest, match="`cache_prompt` must be true or false"):
        parse(tokenizer, cache_prompt=value)


@pytest.mark.parametrize("body", [None, [], "x", 5, True])
def test_a_body_is_an_object(tokenizer: Tokenizer, body: Any) -> None:
    """Anything but an object is refused."""
    with pytest.raises(InvalidRequest, match="JSON object"):
        parse_completion(body, tokenizer, Limits(num_slots=1, context_size=512))


@pytest.mark.parametrize("field", ["grammar", "json_schema"])
def test_what_is_not_supported_is_never_ignored(tokenizer: Tokenizer, field: str) -> None:
    """An answer without its grammar would be a wrong answer."""
    with pytest.raises(NotSupported, match=field):
        parse(tokenizer, **{field: 'root ::= "a"'})


def test_slot_zero_is_a_slot(tokenizer: Tokenizer) -> None:
    """Under both names, and -1 beside it does not hide it."""
    assert parse(tokenizer, slot_id=0).requests[0].slot == 0
    assert parse(tokenizer, id_slot=0).requests[0].slot == 0
    assert parse(tokenizer, id_slot=-1, slot_id=2).requests[0].slot == 2
    assert parse(tokenizer, slot_id=-1).requests[0].slot is None


def test_ids_of_the_answer_are_told_if_wanted(tokenizer: Tokenizer) -> None:
    """Under the key of today's llama-server; in a stream each event has its own."""
    token = SampledToken(5, ())
    delta = Delta("x", (token,), 0)
    for wanted, told in ((True, {"tokens": [5]}), (1, {"tokens": [5]}), (False, {}), (None, {})):
        call = parse(tokenizer, return_tokens=wanted)
        chunk = format_chunk(delta, call, tokenizer)
        assert {name: chunk[name] for name in chunk if name == "tokens"} == told


def test_drafts_are_limited_and_told(tokenizer: Tokenizer) -> None:
    """The field of later servers; `timings` counts drafts only where there were some."""
    assert parse(tokenizer).requests[0].max_draft is None
    call = parse(tokenizer, **{"speculative.n_max": 3.7})
    assert call.requests[0].max_draft == 3
    for num_drafted, told in ((0, {}), (5, {"draft_n": 5, "draft_n_accepted": 2})):
        finish = Finish(
            reason=FinishReason.LIMIT,
            stop_word="",
            slot=0,
            seed=1,
            num_prompt_tokens=3,
            num_cached=0,
            num_generated=4,
            num_in_cache=6,
            truncated=False,
            timings=Timings(1.0, 2.0),
            num_drafted=num_drafted,
            num_accepted=2,
        )
        answer = Answer(text="", tokens=[], finish=finish)
        result = format_result(answer, call, tokenizer, model="m", context_size=512)
        timings = result["timings"]
        assert {key: timings[key] for key in timings if key.startswith("draft")} == told
        assert result["generation_settings"]["speculative.n_max"] == 3


def test_stop_words(tokenizer: Tokenizer) -> None:
    """A string is one word; empty and null ones are dropped."""
    assert parse(tokenizer, stop="x").requests[0].stop == ("x",)
    assert parse(tokenizer, stop=["a", "", None, "b"]).requests[0].stop == ("a", "b")


def test_n_predict(tokenizer: Tokenizer) -> None:
    """0 is prefill only, -1 is without end."""
    assert parse(tokenizer, n_predict=0).requests[0].max_tokens == 0
    assert parse(tokenizer, n_predict=-1).requests[0].max_tokens is None
    assert parse(tokenizer, n_predict=7.9).requests[0].max_tokens == 7


def test_logit_bias_forms(tokenizer: Tokenizer) -> None:
    """Pairs or an object, ids or text, numbers or false; anything else is passed over."""
    pairs = [[5, 1.5], [6, False], [7, True], ["x"], [10**9, 1.0], 3, [8, "2"]]
    bias = parse(tokenizer, logit_bias=pairs).requests[0].sampling.logit_bias
    assert bias == ((5, 1.5), (6, -math.inf))
    assert parse(tokenizer, logit_bias={"5": 1.5}).requests[0].sampling.logit_bias == ((5, 1.5),)
    padded = {"0" * 20 + "5": 1.5}
    assert parse(tokenizer, logit_bias=padded).requests[0].sampling.logit_bias == ((5, 1.5),)
    text = {"\N{FULLWIDTH DIGIT FIVE}": 1.5}  # a text like any other
    assert (5, 1.5) not in parse(tokenizer, logit_bias=text).requests[0].sampling.logit_bias
    assert parse(tokenizer, logit_bias={"9" * 5000: 1.5}).requests[0].sampling.logit_bias == ()
    word = tokenizer.encode(" the", add_special=False)
    bias = parse(tokenizer, logit_bias=[[" the", -2]]).requests[0].sampling.logit_bias
    assert bias == tuple((token_id, -2.0) for token_id in word)


def test_prompt_forms(tokenizer: Tokenizer) -> None:
    """A string, or strings and ids mixed: one prompt, BOS only in front of a first string."""
    text = tokenizer.encode("one two", add_special=False)
    assert encode_prompt("one two", tokenizer) == [1, *text]
    assert encode_prompt(["one two"], tokenizer) == [1, *text]
    assert encode_prompt([7, 8, 9], tokenizer) == [7, 8, 9]
    assert encode_prompt([7, "one two"], tokenizer) == [7, *text]
    assert encode_prompt(["one two", 7], tokenizer) == [1, *text, 7]
    assert encode_prompt("", tokenizer) == [1]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ([["a", 1], "b"], [["a", 1], "b"]),
        ([[5]], [[5]]),
    ],
)
def test_several_prompts(tokenizer: Tokenizer, prompt: Any, expected: list[Any]) -> None:
    """Several strings, or arrays in the array: as many requests, numbered in their order."""
    call = parse(tokenizer, prompt=prompt)
    assert call.is_several and list(call.prompts) == expected
    assert [request.index for request in call.requests] == list(range(len(expected)))
    for request, each in zip(call.requests, expected, strict=True):
        assert list(request.prompt_ids) == encode_prompt(each, tokenizer)


@pytest.mark.parametrize("prompt", ["a", ["a"], [5], ["a", 5], [5, "a", "b"]])
def test_one_prompt(tokenizer: Tokenizer, prompt: Any) -> None:
    """Strings and ids mixed are one prompt, and the answer is no array."""
    call = parse(tokenizer, prompt=prompt)
    assert not call.is_several and len(call.requests) == 1


@pytest.mark.parametrize("prompt", [[[]], [["a"], []], [["a"], None], ["x"] * 33, [[1], 5]])
def test_several_prompts_are_checked_one_by_one(tokenizer: Tokenizer, prompt: Any) -> None:
    """One wrong prompt refuses the request, and so do too many."""
    with pytest.raises(InvalidRequest) as caught:
        parse(tokenizer, prompt=prompt)
    assert caught.value.field == "prompt"


@pytest.mark.parametrize(
    ("num_tokens", "n_keep", "expected"),
    [
        # n_ctx 512: block 256, (1000 - 0 - 256) // 256 = 2 blocks go
        (1000, 0, range(512, 1000)),
        # block 206, (1000 - 100 - 206) // 206 = 3 blocks go
        (1000, 100, [*range(100), *range(718, 1000)]),
        (512, 0, range(256, 512)),
        (511, 0, range(511)),
        # all, but four tokens of the context: block 2, (1000 - 508 - 2) // 2 = 245 blocks go
        (1000, -1, [*range(508), 998, 999]),
    ],
)
def test_a_long_prompt_is_cut(num_tokens: int, n_keep: int, expected: Any) -> None:
    """The numbers of the server of 2023."""
    fitted = fit_prompt(range(num_tokens), n_keep, 512, None)
    assert list(fitted.token_ids) == list(expected)
    assert fitted.is_cut == (num_tokens >= 512)


def test_a_cut_prompt_keeps_its_bos() -> None:
    """A model that begins every prompt with BOS would answer nonsense without it."""
    fitted = fit_prompt([1, *range(10, 1009)], 0, 512, bos_id=1)
    assert fitted.token_ids == (1, *range(521, 1009))


@pytest.mark.parametrize("num_keep", [0, 1, 5])
@pytest.mark.parametrize("context_size", [64, 65])
def test_a_cut_prompt_always_fits(context_size: int, num_keep: int) -> None:
    """Whatever its length, with BOS put back too, it leaves room for one token."""
    for num_tokens in range(context_size, 4 * context_size):
        fitted = fit_prompt([1, *[5] * (num_tokens - 1)], num_keep, context_size, bos_id=1)
        assert fitted.is_cut and fitted.token_ids[0] == 1
        assert len(fitted.token_ids) < context_size


def test_an_absurdly_long_prompt_is_not_cut() -> None:
    """Nobody can mean a prompt of more than eight contexts: the engine will refuse it."""
    assert not fit_prompt([5] * 4097, 0, 512, None).is_cut


def test_a_long_prompt_is_not_cut_against_the_callers_will(tokenizer: Tokenizer) -> None:
    """`context_shift` off leaves the prompt as it is, for the engine to refuse."""
    request = parse(tokenizer, prompt=[5] * 600, context_shift=False).requests[0]
    assert len(request.prompt_ids) == 600 and not request.can_shift


def test_lone_bytes_have_a_name(tokenizer: Tokenizer) -> None:
    """A byte that is no character is spelled out as the server of 2023 did."""
    byte = tokenizer.encode("\N{OWL}", add_special=False)[-1]
    assert token_text(byte, tokenizer) == r"byte: \x89"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["top_k", "temperature"], ("top_k", "temperature")),
        (["Top-P", "minp", "typ", "typical_p", "nucleus", "temp", "top-n-sigma"], None),
        ("edskfypmxt", SAMPLERS),
        ("tkk", ("temperature", "top_k", "top_k")),
        ([], ()),
        ("", ()),
        (None, SAMPLERS),
    ],
)
def test_samplers_by_name_or_letter(
    tokenizer: Tokenizer, value: Any, expected: tuple[str, ...] | None
) -> None:
    """In the spellings that llama-server knows, and in the given order."""
    found = parse(tokenizer, samplers=value).requests[0].sampling.samplers
    spelled = ("top_p", "min_p", "typ_p", "typ_p", "top_p", "temperature", "top_n_sigma")
    assert found == (spelled if expected is None else expected)


@pytest.mark.parametrize("value", [["top_q"], "kz", "kd", 5, [5], {}, ["top_k", None]])
def test_wrong_samplers_are_refused(tokenizer: Tokenizer, value: Any) -> None:
    """Unknown names and letters, and penalties behind a filter."""
    with pytest.raises(InvalidRequest, match="`samplers`"):
        parse(tokenizer, samplers=value)
