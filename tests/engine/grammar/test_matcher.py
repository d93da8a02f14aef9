"""Where an answer is in its grammar: masks, verdicts, forced text, and what outlives a failure."""

from __future__ import annotations

import random
from collections.abc import Iterator

import llguidance
import pytest
import torch

from libertai_engine.errors import InvalidRequest
from libertai_engine.grammar.compiler import PREAMBLE, CompiledGrammar, compile_lark
from libertai_engine.grammar.matcher import GrammarMatcher
from tests.engine.grammar.tokenizers_of_every_kind import (
    KINDS,
    make_compiler,
    make_tokenizer,
    make_vocabulary,
)

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "a": {"enum": ["true", "null"]},
        "b": {"type": "array", "items": {"type": "number"}, "maxItems": 3},
    },
    "required": ["name", "a", "b"],
}
ENDLESS = 'start: "a" start | "b"'  # llguidance gives up after some thousands of "a"
SAME = "start: /a*b/"


def allowed_ids(matcher: GrammarMatcher, size: int) -> list[int]:
    logits = torch.zeros(size)
    matcher.mask(logits)
    return [int(each) for each in logits.isfinite().nonzero().flatten()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_every_verdict_is_that_of_the_mask(kind: str, seed: int) -> None:
    """Along random answers, with forced text and without: the same ids, in both ways of asking."""
    random_number = random.Random(seed)
    tokenizer, size = make_tokenizer(kind), make_tokenizer(kind).vocab_size + 5
    matcher = make_compiler(kind).json_schema(SCHEMA).matcher()
    for _ in range(60):
        allowed = allowed_ids(matcher, size)
        assert allowed == [each for each in range(size) if matcher.allows(each)]
        assert matcher.is_complete == bool({*allowed} & tokenizer.eos_ids)
        following = matcher.forced(50) if seed % 2 else []
        if following:
            assert following[0] in allowed and allowed == allowed_ids(matcher, size)
        for token_id in following or [random_number.choice([*{*allowed} - tokenizer.eos_ids])]:
            assert matcher.allows(token_id)
            matcher.accept(token_id)
        if matcher.is_finished:
            break


def test_forced_text_is_what_the_tokenizer_writes() -> None:
    """Up to where the next letter may join the last token, and never beyond the limit."""
    tokenizer = make_tokenizer("byte_level")
    schema = {"type": "object", "properties": {"true": {"const": True}}, "required": ["true"]}
    compiler = make_compiler("byte_level")
    matcher = compiler.json_schema(schema, is_compact=True).matcher()
    forced = matcher.forced(50)
    assert forced == tokenizer.encode_behind('{"true":true}')
    assert len(forced) < len('{"true":true}')
    again = compiler.json_schema(schema, is_compact=True).matcher()
    assert again.forced(2) == forced[:2] and again.forced(0) == again.forced(-1) == []
    either = compiler.json_schema({"enum": [True, "t"]}, is_compact=True).matcher()
    assert either.forced(50) == []
    for token_id in forced:
        matcher.accept(token_id)
    assert matcher.is_finished and matcher.forced(50) == []


def test_the_end_of_forced_text_is_left_open() -> None:
    """The quote may be one token with the brace behind it, or not: the model chooses."""
    schema = {"enum": [{"a": "x"}, {"a": "x", "b": 1}]}
    matcher = make_compiler("byte_level").json_schema(schema, is_compact=True).matcher()
    tokenizer = make_tokenizer("byte_level")
    assert tokenizer.decode(matcher.forced(50)) == '{"a":"x'


def long_answer(length: int) -> list[int]:
    vocabulary = make_vocabulary("byte_level")
    return [*vocabulary.tokenize("a") * length, *vocabulary.tokenize("b")]


def follow(compiled: CompiledGrammar, token_ids: list[int]) -> GrammarMatcher:
    matcher = compiled.matcher()
    for token_id in token_ids:
        assert matcher.allows(token_id)
        matcher.accept(token_id)
    return matcher


def compiled_of(*texts: str) -> CompiledGrammar:
    vocabulary = make_vocabulary("byte_level")
    forms = [lambda text=text: PREAMBLE + text for text in texts]
    return CompiledGrammar("grammar", "", vocabulary, forms)


def test_a_form_that_gives_up_is_replaced() -> None:
    """At the next token the exact form knows all that came; the grammar can be used again."""
    compiled = compiled_of(ENDLESS, SAME)
    token_ids = long_answer(6000)
    with pytest.raises(InvalidRequest, match="`grammar` cannot be followed any further"):
        follow(compiled_of(ENDLESS), token_ids)
    for _ in range(2):
        assert follow(compiled, token_ids).is_finished
    assert follow(compiled, long_answer(3)).is_finished


def test_a_form_that_does_not_fit_the_answer_is_not_trusted() -> None:
    """Better no answer than one that another grammar would allow."""
    with pytest.raises(InvalidRequest, match="`grammar`"):
        follow(compiled_of(ENDLESS, "start: /c*/"), long_answer(6000))


def test_a_vocabulary_that_cannot_spell_it() -> None:
    """Said as it is, when it shows."""
    matcher = make_compiler("word_piece").json_schema({"const": "kind"}).matcher()
    token_ids = make_vocabulary("word_piece").tokenize('"')
    matcher.accept(token_ids[0])
    with pytest.raises(InvalidRequest, match="no token of this model"):
        allowed_ids(matcher, 9)


def test_a_form_that_does_not_compile_is_passed_over() -> None:
    """The first that does is used; without any the request is refused."""
    assert follow(compiled_of("start: nowhere", SAME), long_answer(2)).is_finished
    with pytest.raises(InvalidRequest, match="`grammar` cannot be compiled"):
        compiled_of("start: nowhere", "start: [")


class Panicking:
    """A native matcher whose tokens of forced text cannot be had."""

    def __init__(self, native: llguidance.LLMatcher) -> None:
        self._native = native
        self._is_broken = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._native, name)

    def compute_ff_tokens(self) -> list[int]:
        self._is_broken = True
        return []

    def is_error(self) -> bool:
        return self._is_broken or self._native.is_error()


def test_without_forced_text_the_answer_goes_on() -> None:
    """Whatever happens when it is asked for, the next form takes over and is not asked again."""
    vocabulary = make_vocabulary("byte_level")

    def forms() -> Iterator[llguidance.LLMatcher]:
        native = compile_lark(PREAMBLE + 'start: "abc"', vocabulary)
        yield Panicking(native.deep_copy())  # type: ignore[misc]
        yield native

    matcher = GrammarMatcher(forms(), vocabulary, "grammar")
    assert matcher.forced(9) == [] == matcher.forced(9)
    for token_id in vocabulary.tokenize("abc"):
        assert matcher.allows(token_id)
        matcher.accept(token_id)
    assert matcher.is_finished
