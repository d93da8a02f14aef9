"""Answers taken apart: what is text, reasoning and call, in any pieces."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libertai_llm.tools import (
    ArgumentsDelta,
    CallInvalid,
    CallStarted,
    ContentDelta,
    ParsedAnswer,
    ToolCallParser,
    answer_of,
    parse_answer,
)

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [2]}}\n</tool_call>'


def ids() -> Callable[[], str]:
    numbers = itertools.count()
    return lambda: f"id{next(numbers)}"


def parsed(text: str, **options: Any) -> ParsedAnswer:
    return parse_answer(text, make_id=ids(), **options)


def in_pieces(text: str, cuts: list[int], **options: Any) -> ParsedAnswer:
    """The same through a parser that is fed the text cut at these places."""
    parser = ToolCallParser(make_id=ids(), **options)
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    events = [event for piece in pieces for event in parser.feed(piece)]
    return answer_of([*events, *parser.finish()])


def test_one_call() -> None:
    """The name, and the arguments as they were written."""
    answer = parsed(CALL)
    (call,) = answer.tool_calls
    assert (call.id, call.name, call.arguments) == ("id0", "add", '{"a": 1, "b": [2]}')
    assert (answer.content, answer.reasoning, answer.invalid_tool_calls) == ("", "", ())


def test_text_reasoning_and_several_calls() -> None:
    """Each goes to its place; the space around marks belongs to the marks."""
    text = f" <think>\nI add.\n</think>\n\nLet me see. \n\n{CALL}\n{CALL}\n"
    answer = parsed(text, reasoning="optional")
    assert (answer.reasoning, answer.content) == ("I add.", "Let me see.")
    assert [call.id for call in answer.tool_calls] == ["id0", "id1"]
    begun = parsed("I add.\n</think>\n42", reasoning="begun")
    assert (begun.reasoning, begun.content) == ("I add.", "42")


def test_text_after_a_call_is_text() -> None:
    """It is not lost; nor is what stands between."""
    answer = parsed(f"one\n{CALL} two {CALL}\nthree")
    assert answer.content == "one two\nthree"
    assert len(answer.tool_calls) == 2


@pytest.mark.parametrize(
    "text", ["", " fine ", "a < b", "<tool", "<tool_cal", "</tool_call>", "\n"]
)
def test_plain_text_stays_as_it_is(text: str) -> None:
    """Letter by letter, also if it looks like a mark for a while."""
    assert parsed(text) == ParsedAnswer(content=text)
    assert parsed(text, reasoning="optional") == ParsedAnswer(content=text)


@pytest.mark.parametrize("before", ["", "\n ", "<think>It is <tool_call>.</think>\n"])
def test_an_answer_that_is_json_or_calls(before: str) -> None:
    """A mark within JSON belongs to the JSON, wherever the pieces end; calls stay calls, also
    after a text, which a server that knows no grammar may send."""
    text = '{"s": "write <tool_call>{} </tool_call> first"} '
    options: dict[str, Any] = {"may_be_json": True, "reasoning": "optional"}
    for answer in (parsed(before + text, **options), in_pieces(before + text, [], **options)):
        assert answer.content.lstrip() == text and not answer.invalid_tool_calls
    every = list(range(len(before + text)))
    assert in_pieces(before + text, every, **options) == parsed(before + text, **options)
    for so in ("", "So."):
        calls = in_pieces(f"{before}{so}{CALL}\n{CALL}\n", every, **options)
        assert len(calls.tool_calls) == 2 and calls.content.strip() == so


def test_what_is_not_looked_for_is_text() -> None:
    """Without tools a mark is a word as any other; so is `<think>` without reasoning."""
    assert parsed(CALL, calls=False).content == CALL
    assert parsed("<think>a</think>b").content == "<think>a</think>b"


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"arguments": {"x": "é🙂"}, "name": "f"}', '{"x": "é🙂"}'),
        ('{"name":"f","parameters":{}}', "{}"),
        ('{"name": "f"}', "{}"),
        ('{"name": "f", "arguments": "{\\"x\\": 1}"}', '{"x": 1}'),
        ('{"id": 7, "x": [null, {"name": "g"}], "name": "f", "arguments": {"y": []}}', '{"y": []}'),
        (
            '{"name": "f", "arguments": {"x": "</tool_call>\\n\\"}"}}',
            '{"x": "</tool_call>\\n\\"}"}',
        ),
        ('  {\n "name" : "f" ,\n"arguments" : { } }  ', "{ }"),
        ('{"name": "f", "arguments": {"x": "\\u00e9"}, "ok": true}', '{"x": "\\u00e9"}'),
    ],
)
@pytest.mark.parametrize("end", ["\n</tool_call>", "", "\n"])
def test_ways_to_write_a_call(body: str, arguments: str, end: str) -> None:
    """Keys in any order, others beside them, arguments as text, marks in strings, no end mark."""
    answer = parsed(f"<tool_call>{body}{end}")
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [("f", arguments)]
    assert answer.content == "" and answer.invalid_tool_calls == ()


BROKEN = [
    ("not json", None, ""),
    ("", None, ""),
    ('{"arguments": {}}', None, "{}"),
    ('{"name": 3, "arguments": {}}', None, ""),
    ('{"name": "", "arguments": {}}', None, ""),
    ('{"name": "f", "arguments": [1]}', "f", ""),
    ('{"name": "f", "arguments": "x"}', "f", "x"),
    ('{"name": "f", "arguments": {"a": tru}}', "f", '{"a": tru}'),
    ('{"name": "f", "arguments": {"a": 1]}', "f", '{"a": 1'),
    ('{"name": "f", "arguments": {"a": "b\n"}}', "f", '{"a": "b'),
    ('{"name": "f", "arguments": {"a": 1}, "arguments": {}}', "f", '{"a": 1}'),
    ('{"name": "f", "name": "g"}', "f", ""),
    ('{"name": "f" "arguments": {}}', "f", ""),
    ('{"": 1, "name": "f"}', None, ""),
    ('{"name": "f", "arguments": {"a":', "f", '{"a":\n'),
    ('{"name": "f", "arguments": ' + '{"a":' * 5000 + "1" + "}" * 5001, "f", None),
]


@pytest.mark.parametrize(("body", "name", "arguments"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_call_is_an_invalid_call(
    body: str, name: str | None, arguments: str | None
) -> None:
    """It says why, keeps what was written, and the next call is not hurt."""
    answer = parsed(f"hm\n<tool_call>\n{body}\n</tool_call>\n{CALL} end")
    (invalid,) = answer.invalid_tool_calls
    assert invalid.name == name and invalid.reason and invalid.text == body.strip()
    assert arguments is None or invalid.arguments == arguments
    assert [call.name for call in answer.tool_calls] == ["add"]
    assert answer.content == "hm end"


def test_every_cut_is_safe() -> None:
    """Wherever the tokens run out: text, a whole call, or an invalid one with what there was."""
    for size in range(len(CALL)):
        answer = parsed(CALL[:size])
        has_all = size >= CALL.index("]}") + 2
        has_mark = size >= len("<tool_call>")
        assert len(answer.tool_calls) == has_all
        assert len(answer.invalid_tool_calls) == (has_mark and not has_all)
        assert answer.content == ("" if has_mark else CALL[:size])
        for invalid in answer.invalid_tool_calls:
            assert "cut off" in invalid.reason


def test_a_call_is_told_as_it_comes() -> None:
    """Its name once, before its arguments, whose pieces are not held back."""
    parser = ToolCallParser()
    told = [event for char in f"So:\n{CALL}" for event in parser.feed(char)]
    assert told[0] == ContentDelta("S")
    assert [type(event) for event in told].count(CallStarted) == 1
    pieces = [event.text for event in told if isinstance(event, ArgumentsDelta)]
    assert len(pieces) == len("".join(pieces)) == len('{"a": 1, "b": [2]}')
    assert parser.finish() == []


def test_text_is_held_back_only_where_a_mark_may_begin() -> None:
    """What cannot be a mark any more comes out at once."""
    parser = ToolCallParser()
    for piece, comes in [("a", "a"), ("b <", "b"), ("b", " <b"), ("\n", ""), ("c", "\nc")]:
        assert "".join(event.text for event in parser.feed(piece)) == comes


def test_a_broken_call_ends_where_it_breaks_off() -> None:
    """The event that says so comes at the end mark, not at the end of the answer."""
    parser = ToolCallParser()
    events = parser.feed("<tool_call>{oops</tool_call>")
    assert [type(event) for event in events] == [CallInvalid]


FRAGMENTS = st.sampled_from(
    ["<tool_call>", "</tool_call>", "<think>", "</think>", CALL, " ", "\n", "{", "}", "[", "]"]
    + ['"', "\\", ":", ",", "name", '{"name": "f", ', '"arguments": ', '{"é": 1}', "<", "text", "1"]
)
ANSWERS = st.lists(FRAGMENTS | st.text(max_size=5), max_size=16).map("".join)


@given(
    ANSWERS,
    st.lists(st.integers(0, 500), max_size=12),
    st.sampled_from(["none", "optional", "begun"]),
    st.booleans(),
)
def test_pieces_do_not_matter(text: str, cuts: list[int], reasoning: str, json_too: bool) -> None:
    """However an answer is cut into pieces, it is read as if it came at once; nothing raises."""
    options: dict[str, Any] = {"reasoning": reasoning, "may_be_json": json_too}
    whole = parsed(text, **options)
    assert in_pieces(text, cuts, **options) == whole
    assert in_pieces(text, list(range(len(text))), **options) == whole
    for call in whole.tool_calls:
        assert isinstance(json.loads(call.arguments), dict)


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=5), st.text(max_size=8), max_size=4))
def test_any_name_and_arguments_come_back(name: str, arguments: dict[str, str]) -> None:
    """Unicode, quotes, marks within strings."""
    body = json.dumps({"name": name + "x", "arguments": arguments}, ensure_ascii=False)
    (call,) = parsed(f"<tool_call>\n{body}\n</tool_call>").tool_calls
    assert call.name == name + "x" and json.loads(call.arguments) == arguments


@pytest.mark.parametrize(
    "text",
    [
        "a" + "\n" * 200_000,
        '<tool_call>{"name": "f", "arguments": {"x": "' + "🙂" * 250_000 + '"}}',
        "<tool_call>oops " + "🙂 " * 200_000,
    ],
    ids=["spaces", "arguments", "broken"],
)
def test_long_answers_take_linear_time(text: str) -> None:
    """Spaces without end, a file as an argument, a broken call that goes on: seconds, if each
    piece were put to all that came before it."""
    parser = ToolCallParser(make_id=ids())
    begun = time.process_time()
    pieces = [text[start : start + 4] for start in range(0, len(text), 4)]
    answer = answer_of([*(e for piece in pieces for e in parser.feed(piece)), *parser.finish()])
    assert time.process_time() - begun < 1.5
    assert answer == parsed(text)
