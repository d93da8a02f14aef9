"""The fast form of a grammar allows exactly what the plain form does.

GRAMMAR_ROUNDS in the environment sets how many random grammars are compared per vocabulary.
"""

from __future__ import annotations

import os
from random import Random

import pytest

from libertai_engine.grammar.emitter import SpecialTokens, emit_chars, emit_merged
from libertai_engine.grammar.syntax import Grammar
from tests.engine.grammar.random_grammars import random_grammar
from tests.engine.grammar.vocabularies import (
    CONTROL,
    END,
    Vocabulary,
    byte_fallback,
    byte_level,
    word_pieces,
)

TOKENS = SpecialTokens({"<|mark|>": CONTROL}, frozenset({END}))
VOCABULARIES = [byte_level(), byte_fallback(), word_pieces()]
ROUNDS = int(os.environ.get("GRAMMAR_ROUNDS", "150"))
STEPS = 12


def compare(random: Random, grammar: Grammar, vocabulary: Vocabulary) -> bool:
    """Walk both forms along one random answer; whether they are different texts at all."""
    texts = [emit_merged(grammar, TOKENS), emit_chars(grammar, TOKENS)]
    matchers = [vocabulary.matcher(text) for text in texts]
    for _ in range(STEPS):
        fast, plain = (matcher.compute_bitmask() for matcher in matchers)
        stuck = [matcher.is_error() for matcher in matchers]
        assert stuck[0] == stuck[1], (grammar, texts)
        if stuck[0]:
            break
        assert fast == plain, (grammar, texts)
        assert matchers[0].is_accepting() == matchers[1].is_accepting()
        allowed = [at for at in range(len(vocabulary.tokens)) if fast[at // 8] >> at % 8 & 1]
        going_on = [each for each in allowed if each != END]
        if not going_on:
            break
        token = random.choice(going_on)
        assert [matcher.consume_token(token) for matcher in matchers] == [True, True]
    return texts[0] != texts[1]


@pytest.mark.parametrize("vocabulary", VOCABULARIES, ids=lambda each: each.name)
def test_both_forms_give_the_same_masks(vocabulary: Vocabulary) -> None:
    """Along random answers of random grammars, over tokens that split characters."""
    differing = 0
    for seed in range(ROUNDS):
        random = Random(f"{vocabulary.name} {seed}")
        differing += compare(random, random_grammar(random), vocabulary)
    assert differing > ROUNDS // 2


@pytest.mark.parametrize("vocabulary", VOCABULARIES[:2], ids=lambda each: each.name)
def test_both_forms_give_the_same_masks_where_tokens_are_named(vocabulary: Vocabulary) -> None:
    """Tokens by id, and negated ones, beside text that the same tokens could be."""
    named = (CONTROL, 40, len(vocabulary.tokens) - 1)
    for seed in range(ROUNDS):
        random = Random(f"tokens {vocabulary.name} {seed}")
        compare(random, random_grammar(random, tokens=named), vocabulary)
