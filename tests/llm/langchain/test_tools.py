"""Tools: what is asked of the server, and what becomes of its answers, whole and in pieces."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, create_model
from pydantic.v1 import BaseModel as BaseModelV1
from typing_extensions import TypedDict

from libertai_llm.errors import InvalidOption
from libertai_llm.langchain import ChatLibertai
from libertai_llm.tools import Tool, ToolChoice, tool_grammar
from tests.llm.langchain.scripted import ScriptedServer


@tool
def add_numbers(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def now() -> str:
    """Tell the time."""
    return "noon"


class AddClass(BaseModel):
    """Add."""

    a: int


class AddV1(BaseModelV1):
    """Add."""

    a: int


class AddDict(TypedDict):
    """Add."""

    a: int


def add_plain(a: int) -> int:
    """Add."""
    return a


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CALL = '<tool_call>\n{"name": "add_numbers", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
CUT = '<tool_call>\n{"name": "add_numbers", "arguments": {"a": "/home/hel'
TOOLS = [add_numbers, now]
KNOWN = [Tool.from_openai(each) for each in ({"name": "a"}, {"name": "b"})]


@pytest.fixture
def chat(server: ScriptedServer) -> Iterator[ChatLibertai]:
    with ChatLibertai(base_url=server.url, model="hermes") as model:
        yield model


def answering(server: ScriptedServer, text: str) -> None:
    server.answer = lambda prompt: text


Way = Callable[[Any, Any], AIMessage]


def whole(model: Any, value: Any) -> AIMessage:
    return model.invoke(value)


def summed(model: Any, value: Any) -> AIMessage:
    return reduce(add, list(model.stream(value)))


def inside(model: Any, value: Any) -> AIMessage:
    """As inside of an agent that is listened to: `invoke`, which streams."""
    return model.invoke(value, stream=True)


ways = pytest.mark.parametrize("way", [whole, summed, inside])


@ways
def test_a_call(chat: ChatLibertai, server: ScriptedServer, way: Way) -> None:
    """Name, arguments, an id of its own, and why the answer ended; no text of it is left over."""
    answering(server, f"Let me see.\n{CALL}")
    message = way(chat.bind_tools(TOOLS), "x")
    (call,) = message.tool_calls
    assert (call["name"], call["args"]) == ("add_numbers", {"a": 1, "b": 2})
    assert call["id"].startswith("call_")
    assert message.text == "Let me see."
    assert message.response_metadata["finish_reason"] == "tool_calls"
    assert message.additional_kwargs == {} and message.invalid_tool_calls == []


@ways
def test_several_calls(chat: ChatLibertai, server: ScriptedServer, way: Way) -> None:
    """In their order, with ids that tell them apart."""
    answering(server, f"{CALL}\n{NOW}\n{CALL}")
    calls = way(chat.bind_tools(TOOLS, parallel_tool_calls=True), "x").tool_calls
    assert [call["name"] for call in calls] == ["add_numbers", "now", "add_numbers"]
    assert calls[1]["args"] == {}
    assert len({call["id"] for call in calls}) == 3


@ways
@pytest.mark.parametrize(
    ("text", "name"),
    [
        (CUT, "add_numbers"),
        ('<tool_call>\n{"name": "now", "arguments": ', "now"),
        ('<tool_call>\n{"name": "now"', "now"),
        ('<tool_call>\n{"name": "now", "arguments": {"a": [1, {"b": "\\', "now"),
        ('<tool_call>\n{"name": "now", "arguments": {"a": tru}}\n</tool_call>', "now"),
        ('<tool_call>\n{"a": 1}\n</tool_call>', None),
        ("<tool_call>oops", None),
    ],
)
def test_a_broken_call_is_never_a_call(
    chat: ChatLibertai, server: ScriptedServer, way: Way, text: str, name: str | None
) -> None:
    """Whoever adds up the pieces: what was cut off does not look as if it were meant so."""
    answering(server, text)
    message = way(chat.bind_tools(TOOLS), "x")
    assert message.tool_calls == []
    (invalid,) = message.invalid_tool_calls
    assert invalid["name"] == name and invalid["id"].startswith("call_")
    written = text.removeprefix("<tool_call>").strip().removesuffix("</tool_call>").strip()
    if way is whole:
        assert invalid["error"] and invalid["args"] in written
    assert message.response_metadata["finish_reason"] == "stop"


@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_blocks_of_text_reasoning_and_calls(server: ScriptedServer, version: str) -> None:
    """Each is a block of its own, in order, in both versions, however it is asked for."""
    server.props = {"chat_template": "{{ messages[0].content }}{# </think> #}"}
    answering(server, f"<think>\nhm\n</think>\n\nLet me.\n{CALL}\n{NOW}")
    async with ChatLibertai(base_url=server.url, output_version=version) as chat:
        model = chat.bind_tools(TOOLS, parallel_tool_calls=True)
        streamed = [chunk async for chunk in model.astream("x")]
        messages = [model.invoke("x"), await model.ainvoke("x"), reduce(add, streamed)]
        messages.append(reduce(add, list(model.stream("x"))))
    for message in messages:
        blocks = [
            {
                name: block.get(name)
                for name in ("type", "reasoning", "text", "args")
                if name in block
            }
            for block in message.content_blocks
        ]
        assert blocks == [
            {"type": "reasoning", "reasoning": "hm"},
            {"type": "text", "text": "Let me."},
            {"type": "tool_call", "args": {"a": 1, "b": 2}},
            {"type": "tool_call", "args": {}},
        ]


@pytest.mark.parametrize("thoughts", ["", "<think>hm</think>"])
@pytest.mark.parametrize("before", ["", "Let me."])
@pytest.mark.parametrize("version", ["v0", "v1"])
def test_no_block_vanishes_in_another(
    server: ScriptedServer, version: str, before: str, thoughts: str
) -> None:
    """Text between calls and after them, which a server that knows no grammar may send."""
    answering(server, f"{thoughts}{before}{CALL} one {NOW}\n{NOW} two {CALL} three")
    expected = [f"{before} one two three".strip(), 4]
    with ChatLibertai(base_url=server.url, output_version=version, reasoning=True) as chat:
        model = chat.bind_tools(TOOLS, parallel_tool_calls=True)
        for message in (whole(model, "x"), summed(model, "x"), inside(model, "x")):
            blocks = [block["type"] for block in message.content_blocks]
            text = "".join(b["text"] for b in message.content_blocks if b["type"] == "text")
            assert [text.strip(), blocks.count("tool_call")] == expected
            assert [call["name"] for call in message.tool_calls] == [
                "add_numbers",
                "now",
                "now",
                "add_numbers",
            ]


async def test_events_of_the_third_version(chat: ChatLibertai, server: ScriptedServer) -> None:
    """Its blocks are finished as they should be; a call that was cut off is an invalid one."""
    kinds = []
    for text in (f"So.\n{CALL}", CUT):
        answering(server, text)
        stream = await chat.bind_tools(TOOLS).astream_events("x", version="v3")
        message = await stream.output
        kinds.append([block["type"] for block in message.content_blocks])
    assert kinds == [["text", "tool_call"], ["invalid_tool_call"]]


def test_calls_come_in_pieces(chat: ChatLibertai, server: ScriptedServer) -> None:
    """The name once, then more than one piece of the arguments, all under one number."""
    answering(server, f"So.\n{CALL}")
    chunks = [
        piece for chunk in chat.bind_tools(TOOLS).stream("x") for piece in chunk.tool_call_chunks
    ]
    assert [piece["name"] for piece in chunks if piece["name"]] == ["add_numbers"]
    assert [piece["id"] is not None for piece in chunks] == [True, *[False] * (len(chunks) - 1)]
    assert len(chunks) > 3 and {piece["index"] for piece in chunks} == {1}
    assert "".join(piece["args"] for piece in chunks) == '{"a": 1, "b": 2}'


def test_text_flows_though_there_are_tools(chat: ChatLibertai, server: ScriptedServer) -> None:
    """An answer without a call streams as ever."""
    answering(server, " one two three < four")
    chunks = list(chat.bind_tools(TOOLS).stream("x"))
    assert len([chunk for chunk in chunks if chunk.content]) > 3
    assert reduce(add, chunks).content == " one two three < four"
    assert chunks[-1].response_metadata["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "given",
    [
        add_numbers,
        add_plain,
        AddClass,
        AddV1,
        AddDict,
        {"title": "add", "description": "Add.", **SCHEMA},
        {"type": "function", "function": {"name": "add", "parameters": SCHEMA}},
        {"name": "add", "description": "Add.", "parameters": SCHEMA},
        {"name": "add", "description": "Add.", "input_schema": SCHEMA},
    ],
    ids=lambda given: getattr(given, "name", None) or getattr(given, "__name__", "dict"),
)
def test_every_form_of_a_tool(chat: ChatLibertai, server: ScriptedServer, given: Any) -> None:
    """Bound or given at the call, it is told to the model and its arguments are in the grammar."""
    chat.bind_tools([given]).invoke("x")
    chat.invoke("x", tools=[given])
    first, second = server.completions
    assert first["grammar"] == second["grammar"] and first["prompt"] == second["prompt"]
    assert '\\"a\\": ' in first["grammar"]
    assert '"a": {"type": "integer"}' in first["prompt"] or '"a": {"title"' in first["prompt"]


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        (None, ToolChoice()),
        (False, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice("none")),
        ("any", ToolChoice("required")),
        ("required", ToolChoice("required")),
        (True, ToolChoice("required")),
        ("b", ToolChoice("named", "b")),
        ({"type": "function", "function": {"name": "b"}}, ToolChoice("named", "b")),
        ({"type": "tool", "name": "b"}, ToolChoice("named", "b")),
        ({"type": "any"}, ToolChoice("required")),
    ],
)
def test_every_choice_is_a_grammar(
    chat: ChatLibertai, server: ScriptedServer, choice: Any, meant: ToolChoice
) -> None:
    """No choice is ignored: each is what the server is held to."""
    tools = [{"name": "a", "description": ""}, {"name": "b", "description": ""}]
    chat.bind_tools(tools, tool_choice=choice).invoke("x")
    assert server.completions[0]["grammar"] == tool_grammar(KNOWN, meant)
    assert "close_grammar" not in server.completions[0]


def test_what_is_no_choice_or_tool_is_an_error(chat: ChatLibertai, server: ScriptedServer) -> None:
    """A `ValueError`, when it is bound or before anything is sent."""
    with pytest.raises(ValueError, match="there are: add_numbers, now"):
        chat.bind_tools(TOOLS, tool_choice="subtract")
    with pytest.raises(InvalidOption, match="two tools"):
        chat.bind_tools([now, now]).invoke("x")
    with pytest.raises(InvalidOption, match="`grammar` is given beside"):
        chat.bind_tools(TOOLS, grammar='root ::= "x"').invoke("x")
    with pytest.raises(InvalidOption, match="no schema"):
        chat.invoke("x", response_format="jason")
    assert server.completions == []


def test_one_call_unless_more_are_allowed(chat: ChatLibertai, server: ScriptedServer) -> None:
    """`strict` changes what the model is told, not what it is held to."""
    for options in ({}, {"parallel_tool_calls": False}, {"parallel_tool_calls": True}):
        chat.bind_tools([add_numbers], **options).invoke("x")
    chat.bind_tools([add_numbers], strict=True).invoke("x")
    one, same, several, strict = (body["grammar"] for body in server.completions)
    assert one == same == strict != several
    assert '("\\n" call)*' in several and "*" not in one.split("call ::=")[1].partition("\n")[0]


def test_no_tools_at_all(chat: ChatLibertai, server: ScriptedServer) -> None:
    """An empty list is no tools; with a format, as agents bind it, the format remains."""
    answering(server, CALL)
    message = chat.bind_tools([]).invoke("x")
    assert message.content == CALL and message.tool_calls == []
    chat.bind_tools([], response_format=AddClass).invoke("x")
    plain, formatted = server.completions
    assert "grammar" not in plain and "tool_call" not in formatted["grammar"]


def test_tools_and_a_format(chat: ChatLibertai, server: ScriptedServer) -> None:
    """As `create_agent` asks its provider: a call or JSON, and either is read."""
    model = chat.bind_tools(
        TOOLS,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    )
    for text in (CALL, '{"a": 1}'):
        answering(server, text)
        message = model.invoke("x")
        assert (len(message.tool_calls), message.content) == (
            (1, "") if text == CALL else (0, text)
        )
    expected = tool_grammar(
        [Tool.from_openai(each) for each in model.kwargs["tools"]], response_schema=SCHEMA
    )
    assert server.completions[0]["grammar"] == expected


def test_json_that_speaks_of_calls(chat: ChatLibertai, server: ScriptedServer) -> None:
    """Beside a format, an answer that begins as JSON is JSON to its end."""
    text = '{"a": "write <tool_call>{} first"}'
    answering(server, text)
    model = chat.bind_tools(TOOLS, response_format=SCHEMA)
    for message in (whole(model, "x"), summed(model, "x")):
        assert message.content == text and not message.invalid_tool_calls


def test_a_conversation_with_calls_goes_on_where_it_was(
    chat: ChatLibertai, server: ScriptedServer
) -> None:
    """The next prompt begins with the last one and its answer, letter by letter."""
    answering(server, f"Let me see.\n{CALL}")
    model = chat.bind_tools(TOOLS)
    history: list[Any] = [HumanMessage("x")]
    history.append(model.invoke(history))
    history.append(ToolMessage("3", tool_call_id=history[-1].tool_calls[0]["id"]))
    model.invoke(history)
    first, second = (body["prompt"] for body in server.completions)
    assert second.startswith(f"{first}Let me see.\n{CALL}<|im_end|>\n")
    assert second.endswith("3<|im_end|>\n<|im_start|>assistant\n")


def test_a_conversation_with_a_broken_call_goes_on(
    chat: ChatLibertai, server: ScriptedServer
) -> None:
    """What the model wrote is shown to it again; streamed or not, nothing raises."""
    answering(server, CUT)
    for version in ("v0", "v1"):
        chat.output_version = version
        model = chat.bind_tools(TOOLS)
        for way in (whole, summed, inside):
            history = [HumanMessage("x"), way(model, "x")]
            history.append(ToolMessage("cut off", tool_call_id="1", status="error"))
            model.invoke(history)
            assert CUT in server.completions[-1]["prompt"]


def test_reasoning_is_kept_apart(chat: ChatLibertai, server: ScriptedServer) -> None:
    """Where the template shows that the model thinks, or where the user says so."""
    thinking = "{{ messages[0].content }}{% if false %}</think>{% endif %}"
    answering(server, "<think>\nhm hm\n</think>\n\nyes")
    for options, expected in [
        ({"chat_template": thinking}, ("hm hm", "yes")),
        ({"reasoning": True}, ("hm hm", "yes")),
        ({"chat_template": thinking + "<think>\n"}, ("<think>\nhm hm", "yes")),
        ({"chat_template": thinking, "reasoning": False}, (None, server.answer(""))),
        ({}, (None, server.answer(""))),
    ]:
        with ChatLibertai(base_url=server.url, **options) as model:
            for message in (whole(model, "x"), summed(model, "x")):
                told = message.additional_kwargs.get("reasoning_content")
                assert (told, message.content) == expected
    assert chat.invoke("x", reasoning=True).content == "yes"


def test_a_forced_call_may_be_thought_over(server: ScriptedServer) -> None:
    """The grammar begins after the thoughts, so a model that thinks can still do so."""
    with ChatLibertai(base_url=server.url, reasoning=True) as model:
        model.bind_tools(TOOLS, tool_choice="any").invoke("x")
    assert '"<think>"' in server.completions[0]["grammar"]


def test_tokens_are_counted_with_tools(chat: ChatLibertai, server: ScriptedServer) -> None:
    """What `input_tokens` will say."""
    message = chat.bind_tools(TOOLS).invoke("x")
    counted = chat.get_num_tokens_from_messages([HumanMessage("x")], TOOLS)
    assert counted == message.usage_metadata["input_tokens"]
    assert counted > chat.get_num_tokens_from_messages([HumanMessage("x")])


def test_a_cache_tells_tools_apart(chat: ChatLibertai) -> None:
    """Tools, choices and formats are part of what was asked."""
    definitions = [json.loads(json.dumps(each.to_openai())) for each in KNOWN]
    strings = {
        chat._get_llm_string(**options)
        for options in (
            {},
            {"tools": definitions},
            {"tools": definitions[:1]},
            {"tools": definitions, "tool_choice": "any"},
            {"tools": definitions, "parallel_tool_calls": True},
            {"tools": definitions, "response_format": {"type": "json_object"}},
            {"reasoning": True},
        )
    }
    assert len(strings) == 7


def test_a_cache_tells_classes_of_one_name_apart(chat: ChatLibertai) -> None:
    """As when a cell of a notebook is changed and run again."""
    kinds = [create_model("Add", a=(int, ...)), create_model("Add", b=(str, ...))]
    strings = {chat._get_llm_string(tools=[kind]) for kind in kinds}
    strings |= {chat._get_llm_string(response_format=kind) for kind in kinds}
    assert len(strings) == 4
    assert chat._get_llm_string(**chat.bind_tools([kinds[0]]).kwargs) in strings


def test_chunks_are_of_one_kind(chat: ChatLibertai, server: ScriptedServer) -> None:
    """A chunk with text and a call would lose one of them in its blocks."""
    answering(server, f"So.{CALL}")
    for chunk in chat.bind_tools(TOOLS).stream("x"):
        assert isinstance(chunk, AIMessageChunk)
        assert not (chunk.content and chunk.tool_call_chunks)
