"""The tokens that grammars are matched in."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libertai_engine.grammar.compiler import GrammarCompiler
from libertai_engine.grammar.vocabulary import TokenFacts, TokenVocabulary
from tests.engine.grammar.tokenizers_of_every_kind import (
    KINDS,
    make_compiler,
    make_tokenizer,
    make_vocabulary,
)


def allowed(compiler: GrammarCompiler, size: int) -> set[int]:
    """The ids that may begin any JSON string."""
    matcher = compiler.json_schema({"type": "string"}, is_compact=True).matcher()
    return {each for each in range(size) if matcher.allows(each)}


@pytest.mark.parametrize("kind", KINDS)
def test_control_tokens_are_no_text(kind: str) -> None:
    """Inside a string anything may come but marks, half of them words that JSON allows there."""
    tokenizer = make_tokenizer(kind)
    matcher = make_compiler(kind).json_schema({"type": "string"}).matcher()
    quote = next(each for each in range(tokenizer.vocab_size) if matcher.allows(each))
    matcher.accept(quote)
    inside = {each for each in range(tokenizer.vocab_size) if matcher.allows(each)}
    assert inside and not inside & {*tokenizer.control_tokens.values(), *tokenizer.eos_ids}


@pytest.mark.parametrize("kind", KINDS)
def test_every_end_token_may_end(kind: str) -> None:
    """All of them, and only where the answer is complete."""
    tokenizer = make_tokenizer(kind)
    matcher = make_compiler(kind).json_schema({"type": "integer"}, is_compact=True).matcher()
    assert tokenizer.eos_ids and not any(map(matcher.allows, tokenizer.eos_ids))
    digit = next(
        each
        for each in range(tokenizer.vocab_size)
        if tokenizer.token_bytes(each) == b"7" and matcher.allows(each)
    )
    matcher.accept(digit)
    assert matcher.is_complete and all(map(matcher.allows, tokenizer.eos_ids))


def test_models_and_tokenizers_of_different_sizes() -> None:
    """Ids that the tokenizer lacks are banned; tokens that the model lacks are not made."""
    whole = make_tokenizer("sentencepiece").vocab_size
    for size in (300, whole, whole + 100):
        compiler = GrammarCompiler(partial(make_vocabulary, "sentencepiece", size))
        found = allowed(compiler, whole + 100)
        assert found and max(found) < min(size, whole)
        document = {"const": "name and a longer text"}
        matcher = compiler.json_schema(document, is_compact=True).matcher()
        forced = matcher.forced(100)
        assert forced and max(forced) < min(size, whole)


def test_a_model_without_an_end_token() -> None:
    """It ends where nothing can follow."""
    facts = TokenFacts(
        pieces=[bytes([each]) for each in range(256)],
        control={},
        end_ids=frozenset(),
        encode=lambda text: list(text.encode()),
        find=lambda text: None,
    )
    compiler = GrammarCompiler(lambda: TokenVocabulary(facts, 256))
    matcher = compiler.json_schema({"const": 1}, is_compact=True).matcher()
    matcher.accept(ord("1"))
    assert matcher.is_finished and not any(map(matcher.allows, range(300)))


def test_endless_tokens_are_not_used() -> None:
    """A vocabulary may hold a line of a thousand dashes; answers are written without it."""
    facts = TokenFacts(
        pieces=[b"-", b"-" * 3000, b"-" * 400, b"."],
        control={},
        end_ids=frozenset({3}),
        encode=lambda text: [1] if len(text) == 3000 else [0] * len(text),
        find=lambda text: None,
    )
    vocabulary = TokenVocabulary(facts, 4)
    assert vocabulary.tokenize("-" * 3000) == [2] * 7 + [0] * 200
    matcher = GrammarCompiler(lambda: vocabulary).gbnf('root ::= "-"+').matcher()
    assert [matcher.allows(each) for each in range(4)] == [True, False, True, False]


@settings(deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=30))
@pytest.mark.parametrize("kind", ["sentencepiece", "byte_level"])
def test_text_is_spelled_as_the_tokenizer_spells_it(kind: str, text: str) -> None:
    """Letter by letter, and in the tokenizer's own way behind other tokens."""
    tokenizer = make_tokenizer(kind)
    token_ids = make_vocabulary(kind).tokenize(text)
    assert b"".join(map(tokenizer.token_bytes, token_ids)) == text.encode()
    assert token_ids == tokenizer.encode_behind(text)


def test_text_that_the_tokenizer_changes_is_spelled_otherwise() -> None:
    """WordPiece knows no line breaks, and reads a space that is not there."""
    vocabulary, tokenizer = make_vocabulary("word_piece"), make_tokenizer("word_piece")
    token_ids = vocabulary.tokenize(' true"a')
    assert b"".join(map(tokenizer.token_bytes, token_ids)) == b' true"a'
    assert vocabulary.tokenize("\n") == []
    mark = make_vocabulary("sentencepiece").tokenize("▁")  # which the tokenizer reads as a space
    assert b"".join(map(make_tokenizer("sentencepiece").token_bytes, mark)).decode() == "▁"
