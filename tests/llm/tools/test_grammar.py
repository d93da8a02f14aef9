"""The grammar of an answer: what it lets through, for each choice, and that its parser reads it."""

from __future__ import annotations

import json
import re
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libertai_engine.grammar.gbnf import parse_gbnf
from libertai_llm.errors import InvalidOption
from libertai_llm.tools import CallSyntax, Tool, ToolChoice, parse_answer, tool_grammar
from tests.engine.grammar.recogniser import Recogniser, is_complete

ADD = Tool(
    "add",
    "Adds.",
    {"properties": {"a": {"type": "integer"}, "to": {"enum": ["é", "x"]}}, "required": ["a"]},
)
NOW = Tool("now")
ANSWER = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 3, "to": "é"}}\n</tool_call>'
NOON = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


@cache
def recogniser(grammar: str) -> Recogniser:
    return Recogniser(parse_gbnf(grammar, token_id_of=lambda name: None))


def accepts(grammar: str | None, text: str) -> bool:
    assert grammar is not None
    found = recogniser(grammar)
    return is_complete(found.read_text(found.start, text.encode()))


TEXTS = ["", "Hello!", "a < b <tool", "<<tool_call", "<tool_call <t", "<tool_<tool_call", "é\n🙂"]


def test_auto_is_text_and_perhaps_a_call() -> None:
    """Any text that does not begin a call; a call must be whole and right, and is the end."""
    grammar = tool_grammar([ADD, NOW], ToolChoice())
    for text in TEXTS:
        assert accepts(grammar, text) and accepts(grammar, text + CALL)
        assert accepts(grammar, text + NOON)
        assert not accepts(grammar, f"{text}<tool_call>")
        assert not accepts(grammar, text + CALL[:-1])
        assert not accepts(grammar, f"{text}{CALL} ")
        assert not accepts(grammar, f"{text}{CALL}\n{NOON}")
        assert not accepts(grammar, text + NOON.replace("now", "then"))
        assert not accepts(grammar, text + NOON.replace("{}}", '{"a": 1}}'))
        assert not accepts(grammar, text + CALL.replace("3", '"3"'))


@pytest.mark.parametrize(
    ("choice", "accepted", "refused"),
    [
        (ToolChoice("none"), TEXTS, [CALL, "<tool_call>", f"x{NOON}"]),
        (ToolChoice("required"), [CALL, NOON], [*TEXTS, f" {CALL}", f"{CALL}\n{NOON}"]),
        (ToolChoice("named", "now"), [NOON], [*TEXTS, CALL]),
    ],
)
def test_the_other_choices(choice: ToolChoice, accepted: list[str], refused: list[str]) -> None:
    """No call at all, one of them, or the one that is named."""
    grammar = tool_grammar([ADD, NOW], choice)
    assert all(accepts(grammar, text) for text in accepted)
    assert not any(accepts(grammar, text) for text in refused)


def test_a_mark_of_one_character() -> None:
    """It is kept out of a text as well as a longer one."""
    tools, syntax = [NOW], CallSyntax(opening="§", closing="¶")
    none = tool_grammar(tools, ToolChoice("none"), syntax=syntax)
    assert accepts(none, "a b") and accepts(none, "") and not accepts(none, "a § b")
    call = '§\n{"name": "now", "arguments": {}}\n¶'
    auto = tool_grammar(tools, syntax=syntax)
    assert accepts(auto, f"a{call}") and not accepts(auto, "a§")


def test_arguments_may_be_described_elsewhere() -> None:
    """By a reference, as those of a class that refers to itself are."""
    parts = {"Add": {"type": "object", **ADD.parameters}}
    tool = Tool("add", "", {"$ref": "#/$defs/Add", "$defs": parts})
    grammar = tool_grammar([tool], ToolChoice("required"))
    assert accepts(grammar, CALL) and not accepts(grammar, CALL.replace('"to"', '"of"'))


def test_several_calls_where_they_are_allowed() -> None:
    """One a line."""
    for mode in ("auto", "required"):
        grammar = tool_grammar([ADD, NOW], ToolChoice(mode), parallel=True)
        assert accepts(grammar, CALL) and accepts(grammar, f"{CALL}\n{NOON}\n{CALL}")
        assert not accepts(grammar, f"{CALL}{NOON}")


def test_with_a_format_an_answer_is_a_call_or_json() -> None:
    """Never text; and JSON alone where no call may be."""
    both = tool_grammar([ADD], response_schema=ANSWER)
    only = tool_grammar([ADD], ToolChoice("none"), response_schema=ANSWER)
    alone = tool_grammar([], response_schema=ANSWER)
    for grammar in (both, only, alone):
        assert accepts(grammar, '{"sum": 3}')
        assert not accepts(grammar, "Hello!") and not accepts(grammar, '{"sum": 3}' + CALL)
        assert accepts(grammar, CALL) == (grammar is both)
    assert tool_grammar([]) is None


def test_thoughts_come_first() -> None:
    """Perhaps, or certainly if the prompt has opened them; what is forced comes after them."""
    maybe = tool_grammar([ADD], ToolChoice("required"), reasoning="optional")
    begun = tool_grammar([], response_schema=ANSWER, reasoning="begun")
    assert accepts(maybe, CALL) and accepts(
        maybe, f"<think>\n</thin <tool_call>\n</think>\n\n{CALL}"
    )
    assert not accepts(maybe, f"<think>\n{CALL}") and not accepts(maybe, f"hm</think>{CALL}")
    assert accepts(begun, 'hm\n</think>\n\n{"sum": 3}') and not accepts(begun, '{"sum": 3}')


def test_a_server_of_december_2023_can_read_it() -> None:
    """Names of letters, digits and hyphens, one rule a line, no repetition counts."""
    tools = [Tool("get_weather (v2)"), ADD, NOW]
    grammar = tool_grammar(tools, parallel=True, response_schema=None, reasoning="optional")
    assert grammar is not None
    for line in grammar.splitlines():
        assert re.fullmatch(r"[a-zA-Z0-9-]+ ::= .+", line)
        assert not re.search(r"\{\d", line)
    assert accepts(grammar, NOON.replace("now", "get_weather (v2)"))


def test_other_marks() -> None:
    """A family that writes calls between other marks has its own; some marks cannot be one."""
    syntax = CallSyntax(opening="[CALL]", closing="[/CALL]")
    grammar = tool_grammar([NOW], syntax=syntax)
    text = NOON.replace("<tool_call>", "[CALL]").replace("</tool_call>", "[/CALL]")
    assert accepts(grammar, f"see [CAL {text}") and not accepts(grammar, "[CALL]")
    assert parse_answer(f"see\n{text}", syntax=syntax).tool_calls[0].name == "now"
    for mark in ("", "<<call>", "aba"):
        with pytest.raises(InvalidOption, match="cannot be a mark"):
            CallSyntax(opening=mark)


def test_two_tools_of_one_name_are_an_error() -> None:
    """Nobody could say which of them was meant."""
    with pytest.raises(InvalidOption, match="two tools are named `now`"):
        tool_grammar([NOW, NOW])


@given(st.lists(st.sampled_from(["<", "tool_call>", "<tool", "_call>", ">", "x", "<tool_call>"])))
def test_text_is_anything_but_the_mark(parts: list[str]) -> None:
    """The grammar's text is exactly what does not hold the mark."""
    text = "".join(parts)
    grammar = tool_grammar([NOW], ToolChoice("none"))
    assert accepts(grammar, text) == ("<tool_call>" not in text)


@given(
    st.text().filter(lambda text: "<tool_call>" not in text),
    st.lists(st.integers(-9, 9), min_size=1, max_size=3),
)
def test_what_the_grammar_accepts_the_parser_reads(text: str, numbers: list[int]) -> None:
    """Every call that is let through is a valid one, with the text before it."""
    bodies = [json.dumps({"name": "add", "arguments": {"a": number}}) for number in numbers]
    calls = "\n".join(f"<tool_call>\n{body}\n</tool_call>" for body in bodies)
    grammar = tool_grammar([ADD], parallel=True)
    assert accepts(grammar, text + calls)
    answer = parse_answer(text + calls)
    assert [json.loads(call.arguments)["a"] for call in answer.tool_calls] == numbers
    assert answer.content == text.rstrip() and answer.invalid_tool_calls == ()
