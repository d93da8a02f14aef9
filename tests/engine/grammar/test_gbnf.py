"""The parser reads GBNF as llama.cpp does, and says what is wrong with what it cannot read."""

from __future__ import annotations

import time
from random import Random
from typing import Any

import pytest

from libertai_engine.errors import InvalidRequest
from libertai_engine.grammar.gbnf import parse_gbnf
from libertai_engine.grammar.limits import GrammarLimits
from libertai_engine.grammar.rule_graph import parts_of
from libertai_engine.grammar.syntax import Chars, Grammar, Node, Reference, Token
from tests.engine.grammar.cases import (
    SPECIAL_TOKENS,
    VERDICT_FILES,
    Answer,
    HostileCase,
    cases_of,
    hostile_cases,
    rows_of,
)
from tests.engine.grammar.recogniser import Recogniser, is_complete

UNUSABLE = [row for row in rows_of("parser") if not row["is_valid"]]
SECONDS = 5  # of the processor, far more than anything takes


def parsed(text: str, limits: GrammarLimits | None = None) -> Grammar:
    return parse_gbnf(text, token_id_of=SPECIAL_TOKENS.get, limits=limits)


def refusal(text: str, limits: GrammarLimits | None = None) -> str:
    """What the parser says against a grammar."""
    with pytest.raises(InvalidRequest) as caught:
        parsed(text, limits)
    assert caught.value.field == "grammar"
    return str(caught.value)


def accepts(recogniser: Recogniser, answer: Answer) -> bool:
    state = recogniser.start
    for part in answer:
        if isinstance(part, int):
            state = recogniser.read_token(state, part, b"")
        else:
            for byte in part.encode():
                state = recogniser.read_token(state, 0, bytes([byte]))
    return is_complete(state)


@pytest.mark.parametrize("file", VERDICT_FILES)
def test_a_grammar_means_what_llama_cpp_says(file: str) -> None:
    """Every answer on record is accepted or rejected by the tree that is read."""
    wrong = []
    for case in cases_of(file):
        recogniser = Recogniser(parsed(case.grammar))
        wrong += [
            (case.name, answer)
            for answer, verdict in case.verdicts()
            if accepts(recogniser, answer) != verdict
        ]
    assert wrong == []


def test_grammars_made_of_schemas_are_read() -> None:
    """What llama.cpp makes of a JSON schema is a grammar."""
    for case in cases_of("schemas"):
        assert "root" in parsed(case.grammar).rules


@pytest.mark.parametrize("row", rows_of("errors"), ids=lambda row: str(row["name"]))
def test_an_error_says_where_and_what(row: dict[str, Any]) -> None:
    """Line, column and what was expected."""
    message = refusal(row["grammar"])
    place = f"failed to parse grammar: line {row['line']}, column {row['column']}: "
    assert message.startswith(place)
    assert row["message"] in message[len(place) :]


@pytest.mark.parametrize("row", UNUSABLE, ids=lambda row: str(row["name"]))
def test_what_llama_cpp_refuses_is_refused(row: dict[str, Any]) -> None:
    assert refusal(row["grammar"])


@pytest.mark.parametrize("case", hostile_cases(), ids=lambda case: str(case.name))
def test_hostile_grammars_end_soon(case: HostileCase) -> None:
    """Whatever it is made of, a grammar is read or refused in linear time."""
    start = time.process_time()
    if case.refusal is None:
        parsed(case.grammar)
    else:
        message = refusal(case.grammar)
        assert case.refusal in message
        assert len(message) < 1000
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize(
    ("limits", "fits", "exceeds", "reason"),
    [
        (GrammarLimits(text_bytes=12), 'root ::= "a"', 'root ::= "é"', "12 bytes"),
        (
            GrammarLimits(rules=2),
            'root ::= a\na ::= ""',
            'a ::= ""\n' * 2 + "root ::= a",
            "2 rules",
        ),
        (GrammarLimits(items=4), 'root ::= "a" | (.)', 'root ::= "a" | (.)?', "4 items"),
        (GrammarLimits(depth=2), "root ::= ((.))", "root ::= (((.)))", "2 groups in each"),
        (GrammarLimits(depth=2), "root ::= .?+", "root ::= .?+*", "2 quantifiers"),
        (GrammarLimits(repetitions=6), "root ::= .{6}", "root ::= .{7}", "6 repetitions"),
        (GrammarLimits(repetitions=6), "root ::= .{2}{3}", "root ::= .{2}{4}", "in each other"),
        (GrammarLimits(token_text=7), "root ::= <think>", "root ::= </think>", "exactly one token"),
    ],
)
def test_each_limit_is_kept(limits: GrammarLimits, fits: str, exceeds: str, reason: str) -> None:
    """What fits is read, one more is refused by name."""
    assert parsed(fits, limits)
    assert reason in refusal(exceeds, limits)


def test_a_maximum_beyond_the_limit_is_none() -> None:
    assert parsed('root ::= "a"{1,2001}') == parsed('root ::= "a"{1,}')
    assert parsed('root ::= "a"{1,2000}') != parsed('root ::= "a"{1,}')


def test_a_token_is_looked_up_with_its_brackets_and_once() -> None:
    """However often a grammar names it."""
    asked: list[str] = []

    def find(text: str) -> int:
        asked.append(text)
        return 7

    grammar = parse_gbnf("root ::= <a b> !<a b> x\nx ::= <a b>", token_id_of=find)
    assert asked == ["<a b>"]
    assert grammar.rules["x"] == Token(7)


def test_a_name_may_begin_like_anything() -> None:
    """Digits and dashes only are names, and no other letters than ASCII's."""
    assert parsed('root ::= 007\n007 ::= "a"').rules["root"] == Reference("007")
    assert parsed('root ::= --\n-- ::= "a"').rules["root"] == Reference("--")


def test_deep_nesting_makes_flat_trees() -> None:
    """A walk down any rule's tree takes at most 50 steps, and nothing is lost by that."""
    deep = parsed("root ::= " + '("a" ' * 200 + '"b"' + " | .)?" * 200)
    stacked = parsed('root ::= "a"' + "?*" * 100)
    for grammar in (deep, stacked):
        assert max(_height(body) for body in grammar.rules.values()) <= 50
        assert all(name == "root" or "_" in name for name in grammar.rules)
    assert accepts(Recogniser(deep), ("a" * 200 + "b",))
    assert accepts(Recogniser(deep), ("a" * 150 + ".",))
    assert not accepts(Recogniser(deep), ("a" * 202,))


def _height(node: Node) -> int:
    return 1 + max(map(_height, parts_of(node)), default=0)


def test_a_rule_defined_again_leaves_nothing_of_the_first() -> None:
    """Neither its text nor its references, its recursion or its parts."""
    first = 'x ::= x "a" | ' + "(" * 100 + "missing" + ")+" * 100
    assert parsed(f'{first}\nroot ::= x\nx ::= "b"') == parsed('root ::= x\nx ::= "b"')


def test_recursion_that_reads_something_first_is_none_on_the_left() -> None:
    """In the middle, at the end, behind what is repeated at least once."""
    parsed('root ::= "a" root | "b" root "c" | "d"+ root | ("e" | "f"{2,3}) root |')


@pytest.mark.parametrize("seed", range(4))
def test_broken_grammars_are_read_or_refused(seed: int) -> None:
    """Real grammars with some characters changed: a tree that keeps its promises, or a refusal."""
    random = Random(seed)
    grammars = [case.grammar for file in VERDICT_FILES for case in cases_of(file)]
    num_read = 0
    for _ in range(400):
        text = _broken(random, random.choice(grammars))
        try:
            grammar = parsed(text)
        except InvalidRequest as error:
            assert error.field == "grammar"
        else:
            num_read += 1
            _check_promises(grammar)
    assert 40 < num_read < 360


def _broken(random: Random, text: str) -> str:
    for _ in range(random.randrange(1, 4)):
        start = random.randrange(len(text) + 1)
        end = start + random.choice([0, 0, 1, 1, 5])
        text = (
            text[:start] + random.choice([*'"[]()|*+?{},.<>!^-\\#\n\r 1ax', "é", ""]) + text[end:]
        )
    return text


def _check_promises(grammar: Grammar) -> None:
    """The invariants of the syntax tree."""
    todo = [Reference(grammar.root), *grammar.rules.values()]
    while todo:
        node = todo.pop()
        todo.extend(parts_of(node))
        if isinstance(node, Reference):
            assert node.name in grammar.rules
        if isinstance(node, Chars):
            ends = [end for first, last in node.ranges for end in (first, last + 1)]
            assert ends == sorted(set(ends))
            assert all(last < 0xD800 or first > 0xDFFF for first, last in node.ranges)
