"""The plain form of a grammar allows what the grammar says: token by token, and no more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from random import Random

import pytest
from llguidance import LLMatcher

from libertai_engine.errors import InvalidRequest
from libertai_engine.grammar.emitter import SpecialTokens, emit_chars
from libertai_engine.grammar.syntax import (
    Alternation,
    Chars,
    Concatenation,
    Grammar,
    Literal,
    Node,
    Reference,
    Repetition,
    Token,
)
from tests.engine.grammar.random_grammars import random_grammar
from tests.engine.grammar.reference import Progress, TooManyWays
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
ROUNDS = int(os.environ.get("GRAMMAR_ROUNDS", "30"))


def ends(grammar: Grammar, text: str, vocabulary: Vocabulary = VOCABULARIES[0]) -> bool | None:
    """Whether a text may end; None if it is refused."""
    matcher = vocabulary.matcher(emit_chars(grammar, TOKENS))
    ids = vocabulary(text)
    return matcher.is_accepting() if matcher.try_consume_tokens(ids) == len(ids) else None


def of(*items: Node, **rules: Node) -> Grammar:
    return Grammar({"root": Concatenation(items), **rules})


def allowed_by(progress: Progress, vocabulary: Vocabulary) -> list[int]:
    """The tokens that go on with a text, and the end where there may be one."""
    texts = enumerate(vocabulary.tokens[CONTROL + 1 :], CONTROL + 1)
    going_on = [each for each, text in texts if progress.read(text).is_possible]
    return [END] * progress.is_complete + going_on


def allowed_in(matcher: LLMatcher, vocabulary: Vocabulary) -> list[int]:
    mask = matcher.compute_bitmask()
    assert not matcher.is_error(), matcher.get_error()
    return [each for each in range(len(vocabulary.tokens)) if mask[each // 8] >> each % 8 & 1]


@pytest.mark.parametrize("vocabulary", VOCABULARIES, ids=lambda each: each.name)
def test_masks_are_what_trying_every_way_finds(vocabulary: Vocabulary) -> None:
    """At random prefixes of random grammars: a token is allowed if the text goes on with it."""
    compared = 0
    for seed in range(ROUNDS):
        random = Random(f"{vocabulary.name} {seed}")
        grammar = random_grammar(random)
        with suppress(TooManyWays):
            for _ in walk(random, grammar, vocabulary):
                compared += 1
    assert compared > ROUNDS


def walk(random: Random, grammar: Grammar, vocabulary: Vocabulary) -> Iterator[None]:
    matcher, progress = vocabulary.matcher(emit_chars(grammar, TOKENS)), Progress.start(grammar)
    for _ in range(8):
        expected = allowed_by(progress, vocabulary)
        if not expected:
            return  # words alone cannot write it; llguidance calls that an error
        assert allowed_in(matcher, vocabulary) == expected, grammar
        yield
        if expected == [END]:
            return
        token = random.choice([each for each in expected if each != END])
        assert matcher.consume_token(token)
        progress = progress.read(vocabulary.tokens[token])


A, B, NEVER = Literal("a"), Literal("b"), Chars(())


@pytest.mark.parametrize(
    ("grammar", "texts", "refused"),
    [
        (of(Literal('"\\/\n\x00é😀')), ['"\\/\n\x00é😀'], ["a"]),
        (of(Chars(((0x61, 0x62), (0x1F600, 0x1F600)))), ["a", "b", "😀"], ["c", "ab"]),
        (of(Repetition(A, 2, 3)), ["aa", "aaa"], ["aaaa", "b"]),
        (of(Repetition(Repetition(A, 2, 2), 0, 2)), ["", "aa", "aaaa"], ["aaaaa"]),
        (of(Repetition(Repetition(A, 3, None), 0, 1)), ["", "aaa", "a" * 9], ["b"]),
        (of(Alternation((Concatenation((A, NEVER)), B)), Repetition(NEVER, 0, None)), ["b"], ["a"]),
        (of(Alternation((Literal("\ud800"), A))), ["a"], ["b"]),
        (of(Reference("r"), r=Alternation((Literal(""), A))), ["", "a"], ["aa"]),
    ],
)
def test_each_kind_of_node_means_what_it_says(
    grammar: Grammar, texts: list[str], refused: list[str]
) -> None:
    """Whole texts end, others are refused."""
    assert [ends(grammar, text) for text in texts] == [True] * len(texts)
    assert [ends(grammar, text) for text in refused] == [None] * len(refused)


def test_half_a_count_does_not_end() -> None:
    """What holes there are between counts stay."""
    grammar = of(Repetition(Repetition(A, 2, 2), 0, 2))
    assert [ends(grammar, "a" * count) for count in range(5)] == [True, False, True, False, True]


@pytest.mark.parametrize(
    "grammar",
    [
        of(NEVER),
        of(A, Literal("\udfff")),
        of(Reference("r"), r=Concatenation((A, Reference("s"))), s=NEVER),
        of(A, Token(END)),
    ],
)
def test_a_grammar_without_any_text_is_refused(grammar: Grammar) -> None:
    """Also where the impossible part is a call away, or the end of an answer."""
    with pytest.raises(InvalidRequest, match="no text at all") as caught:
        emit_chars(grammar, TOKENS)
    assert caught.value.field == "grammar"


def test_tokens_are_matched_by_id() -> None:
    """A token is not its text, and one that is negated is neither itself nor the end."""
    vocabulary = VOCABULARIES[0]
    (token,) = vocabulary("a")
    lark = emit_chars(of(Token(CONTROL), Repetition(Token(token, True), 1, None), A), TOKENS)
    matcher = vocabulary.matcher(lark)
    assert allowed_in(matcher, vocabulary) == [CONTROL]
    assert matcher.consume_token(CONTROL)
    everything = set(range(len(vocabulary.tokens)))
    assert set(allowed_in(matcher, vocabulary)) == everything - {END, token}
    assert matcher.consume_token(CONTROL)
    assert set(allowed_in(matcher, vocabulary)) == everything - {END}
    assert matcher.consume_token(token) and matcher.is_accepting()


def test_tokens_that_overlap_are_all_followed() -> None:
    """Of two ways over one token neither is lost."""
    vocabulary = VOCABULARIES[0]
    token, other = vocabulary("a") + vocabulary("b")
    ways = Concatenation((Token(token, True), A)), Concatenation((Token(other), B))
    for text in ("a", "b"):
        matcher = vocabulary.matcher(emit_chars(of(Alternation(ways)), TOKENS))
        assert matcher.consume_token(other)
        assert matcher.consume_tokens(vocabulary(text)) and matcher.is_accepting()


def test_unused_ids_are_never_allowed() -> None:
    """Padding behind the last token is no other token than the one that is negated."""
    tokens = SpecialTokens(end_ids=frozenset({END}), unused_ids=frozenset({3, 4, 5, 9}))
    vocabulary = VOCABULARIES[0]
    matcher = vocabulary.matcher(emit_chars(of(Token(7, True)), tokens))
    expected = set(range(len(vocabulary.tokens))) - {END, 3, 4, 5, 7, 9}
    assert set(allowed_in(matcher, vocabulary)) == expected


def test_a_literal_may_come_as_the_control_token_it_spells() -> None:
    """`"a<|mark|>b"` is "a", the token or its text, "b"."""
    vocabulary = VOCABULARIES[0]
    lark = emit_chars(of(Literal("a<|ma"), Literal("rk|>b")), TOKENS)
    for middle in ([CONTROL], vocabulary("<|mark|>")):
        matcher = vocabulary.matcher(emit_chars(of(Literal("a<|mark|>b")), TOKENS))
        assert matcher.consume_tokens([*vocabulary("a"), *middle, *vocabulary("b")])
        assert matcher.is_accepting()
    assert "<[" not in lark, "two literals are not one"


def test_the_longest_of_overlapping_control_tokens_counts() -> None:
    """Where two begin at one place, the shorter one is not split off."""
    tokens = SpecialTokens({"<a>": 5, "<a><b>": 6, "": 7, "<end>": END}, frozenset({END}))
    lark = emit_chars(of(Literal("<a><b><a><end>")), tokens)
    assert lark.count("<[6]>") == 1 and lark.count("<[5]>") == 1
    assert "<[7]>" not in lark and "<[0]>" not in lark


def test_thousands_of_rules_that_call_the_next_compile() -> None:
    """llguidance would overflow the stack of the process; it is led from the last to the first."""
    last = 5000
    rules: dict[str, Node] = {
        f"r{at}": Concatenation((A, Repetition(Reference(f"r{at + 1}"), 0, 1), B))
        for at in range(last)
    }
    rules["root"] = Alternation((Reference("r0"), Literal("(")))
    assert ends(Grammar({**rules, f"r{last}": A}), "a" * 100 + "b" * 100) is True


def test_a_circle_of_rules_that_is_too_long_is_refused() -> None:
    """Rather than overflowing the stack."""
    rules: dict[str, Node] = {
        f"r{at}": Alternation((A, Concatenation((A, Reference(f"r{(at + 1) % 2000}"), B))))
        for at in range(2000)
    }
    with pytest.raises(InvalidRequest, match="too long a circle"):
        emit_chars(Grammar({"root": Reference("r0"), **rules}), TOKENS)


def test_any_depth_of_nesting_is_written() -> None:
    """Neither Python's recursion nor the 30 groups of the dialect are a limit."""
    node: Node = A
    for _ in range(3000):
        node = Alternation((Concatenation((A, node, B)), B))
    assert ends(of(node), "a" * 3 + "b" * 4) is True


def test_rules_of_two_of_the_next_stay_small() -> None:
    """2³⁰ copies are never written down."""
    rules: dict[str, Node] = {
        f"r{at}": Concatenation((Reference(f"r{at + 1}"), A, Reference(f"r{at + 1}")))
        for at in range(30)
    }
    lark = emit_chars(Grammar({"root": Reference("r0"), **rules, "r30": B}), TOKENS)
    assert len(lark) < 50_000


def test_long_literals_and_counts_stay_small() -> None:
    """The text grows with the length of a literal, and not at all with a count."""
    assert len(emit_chars(of(Literal("ab" * 5000)), TOKENS)) < 60_000
    assert len(emit_chars(of(Repetition(Literal("ab"), 5, 100_000)), TOKENS)) < 200


def test_too_many_tokens_are_refused() -> None:
    """Negated ones would have to list all others."""
    many = Alternation(tuple(Token(each, True) for each in range(2, 400)))
    with pytest.raises(InvalidRequest, match="too many tokens"):
        emit_chars(of(many), TOKENS)


@pytest.mark.parametrize("count", [3, 6000])
def test_recursion_at_the_end_does_not_pile_up(count: int) -> None:
    """Lists written as an item and a list, also by turns of two rules, go on without end."""
    comma = Literal(",")
    one = Grammar({"root": Alternation((A, Concatenation((A, comma, Reference("root")))))})
    turns = Grammar(
        {
            "root": Alternation((Concatenation((A, Reference("other"))), Literal(""))),
            "other": Alternation((Concatenation((B, Reference("root"))), comma)),
        }
    )
    assert ends(one, "a," * count + "a") is True
    assert ends(turns, "ab" * count) is True and ends(turns, "ab" * count + "a,") is True


def test_recursion_that_never_ends_goes_on() -> None:
    """A rule without an end matches no text, but what it begins with can be written."""
    endless = Grammar(
        {"root": Alternation((Reference("r"), B)), "r": Concatenation((A, Reference("r")))}
    )
    assert ends(endless, "aaaa") is False and ends(endless, "b") is True
