"""The fast form of a grammar allows exactly what the plain form does.

GRAMMAR_ROUNDS in the environment sets how many random grammars are compared per vocabulary.
"""

from __future__ import annotations

import os
from random import Random

import pytest

from libertai_engine.grammar.emitter import SpecialTokens, emit_chars, emit_merged
from libertai_engine.grammar.emitter.merge import merged
from libertai_engine.grammar.emitter.rules import normalised, planted, written_out
from libertai_engine.grammar.emitter.tail_recursion import solved
from libertai_engine.grammar.gbnf import parse_gbnf
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
ROUNDS = int(os.environ.get("GRAMMAR_ROUNDS", "40"))
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


def gbnf(text: str) -> Grammar:
    return parse_gbnf(text, token_id_of=lambda name: None)


JSON = r"""
root ::= object
value ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
array ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= "-"? ([0-9] | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


def test_what_does_not_recur_is_one_lexeme() -> None:
    """Nothing is left to the parser."""
    lark = emit_merged(gbnf('root ::= move (" " move)*\nmove ::= [a-h] [1-8] "x"?'), TOKENS)
    rules = [line.split(":")[0] for line in lark.splitlines()[1:] if line[0] not in "T"]
    assert rules == ["start", "r0"], lark


def test_json_is_read_by_the_lexer_but_for_its_brackets() -> None:
    """A string with what is around it is one lexeme, and no rule reads single characters."""
    lark = emit_merged(gbnf(JSON), TOKENS)
    assert not [line for line in lark.splitlines() if line.startswith("c")], lark
    assert len([line for line in lark.splitlines() if ": T" in line and line[0] == "n"]) <= 9


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        ('root ::= (name "=" sum "\\n")+\nsum ::= name ("+" name)* | "(" sum ")"\n'
         "name ::= [a-z]+ [ \\n]*", "ab=a+b\nc=d\n"),
        ('root ::= "(" root ")" | "a" "b" | "ab" "c"', "((ab))"),
        ('root ::= "(" root ")" | [a-z]+ "x"', "(aaxx)"),
        ('root ::= call | "(" root ")"\ncall ::= [a-z]+ "(" call? ")" | "if" "(" call "(" ")" ")"',
         "(if(a()()))"),
        ('root ::= "(" root ")" | "a"* [aé] | "aaè"', "(aaé)"),
        ('root ::= "(" root ")" | "a"? "b"? "a"? "a"* "c"', "(abaac)"),
        ('root ::= number ("." number)* ".." root? \nnumber ::= "-"? [0-9]+ ("." [0-9]+)?',
         "1.5.2.."),
        ('root ::= [^<]* ("<" [^t] [^<]*)* call?\n'
         'call ::= "<t>" value\nvalue ::= [0-9]+ | "[" value ("," " "* value)* "]"',
         "a<é\n<t>[12,[1]]"),
        ('root ::= member ("," root)? "."\nmember ::= [ab]+ | "(" root ", " root ")"',
         "(ab,a.., b.)."),
        ('root ::= item*\nitem ::= "-" [^\\n]+ "\\n" | "{" root "}"', "-é}\n{-a\n}"),
    ],
)  # fmt: skip
def test_what_a_longest_match_alone_would_lose_is_kept(grammar: str, text: str) -> None:
    """Every text here needs a lexeme to stop where another one could go on."""
    lark = emit_merged(gbnf(grammar), TOKENS)
    for vocabulary in VOCABULARIES[:2]:
        for spelled in (vocabulary(text), [each for one in text for each in vocabulary(one)]):
            matcher = vocabulary.matcher(lark)
            assert matcher.try_consume_tokens(spelled) == len(spelled), lark
            assert matcher.is_accepting()
            assert_same_along(spelled, gbnf(grammar), vocabulary)


def assert_same_along(ids: list[int], grammar: Grammar, vocabulary: Vocabulary) -> None:
    fast, plain = (vocabulary.matcher(emit(grammar, TOKENS)) for emit in (emit_merged, emit_chars))
    for each in ids:
        assert fast.compute_bitmask() == plain.compute_bitmask()
        assert fast.consume_token(each) and plain.consume_token(each)
    assert fast.is_accepting() == plain.is_accepting()


@pytest.mark.parametrize("grammar", ['root ::= ""', 'root ::= ("")*', 'root ::= e e\ne ::= ""'])
def test_the_empty_text_takes_no_time(grammar: str) -> None:
    """A part that is empty has no pieces: cutting it would never end but for the budget."""
    rules = written_out(normalised(planted(gbnf(grammar), TOKENS)), solved)
    assert merged(rules, steps=100) is not None


def test_a_grammar_that_takes_too_long_to_think_about_comes_out_plain() -> None:
    """Deciding is bounded by steps; the plain form needs no decision.

    Reading these lexemes must remember the last 31 letters: 2³¹ states.
    """
    grammar = gbnf('root ::= [ab]* "a" [ab]{30} root | "(" root ")" | "c"')
    assert emit_merged(grammar, TOKENS) == emit_chars(grammar, TOKENS)
    assert_same_along(VOCABULARIES[0]("(baab"), grammar, VOCABULARIES[0])


def test_a_part_that_is_too_large_for_a_lexeme_is_cut() -> None:
    """Rules of two of the next are 2²⁰ characters when written out, which llguidance would do."""
    rules = [f"r{at} ::= r{at + 1} [a-{chr(98 + at)}] r{at + 1}" for at in range(20)]
    grammar = gbnf("\n".join(["root ::= r0", *rules, 'r20 ::= "x"']))
    lark = emit_merged(grammar, TOKENS)
    assert len(lark) < 20_000
    assert_same_along(VOCABULARIES[0](""), grammar, VOCABULARIES[0])
