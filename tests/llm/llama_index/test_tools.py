"""Group 5: tools: who must call, calls; streams tell calls apart from text; ids are kept."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatResponse, TextBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import call_tool_with_selection

from libertai_llm.errors import InvalidOption
from libertai_llm.llama_index import Libertai, NoToolCall
from tests.llm.langchain.scripted import ScriptedServer
from tests.llm.llama_index.conftest import MakeLLM
from tests.llm.llama_index.toolbox import ADD, NOW, TOOLS, WEATHER, call_text, calls_of

QUESTION = "What is 3 plus 4?"


async def chats(llm: Any, **options: Any) -> list[list[ChatResponse]]:
    """A chat with tools in all four ways; one response is a list of one."""
    given = {"tools": TOOLS, "user_msg": QUESTION, **options}
    streamed = await llm.astream_chat_with_tools(**given)
    return [
        [llm.chat_with_tools(**given)],
        [await llm.achat_with_tools(**given)],
        list(llm.stream_chat_with_tools(**given)),
        [each async for each in streamed],
    ]


async def test_required_means_a_call(make_llm: MakeLLM) -> None:
    """Whatever the model would rather say: one call of one of the tools, with fitting arguments."""
    llm = make_llm(max_tokens=200, cache_prompt=False)
    ways = await chats(llm, tool_required=True)
    for way in ways:
        (selection,) = llm.get_tool_calls_from_response(way[-1])
        output = call_tool_with_selection(selection, TOOLS)
        assert not output.is_error, output
        assert selection.tool_id and not way[-1].message.content
    calls = [calls_of(way[-1])[0] for way in ways]
    assert len({(call.tool_name, str(call.tool_kwargs)) for call in calls}) == 1
    assert len({call.tool_call_id for call in calls}) == 4


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.metadata.name)
@pytest.mark.parametrize("form", ["name", "object"])
def test_a_named_tool_is_called(make_llm: MakeLLM, tool: Any, form: str) -> None:
    """By its name, as agents do, or as the OpenAI API has it; no arguments are an empty object."""
    llm, name = make_llm(max_tokens=200), tool.metadata.name
    choice = name if form == "name" else {"type": "function", "function": {"name": name}}
    response = llm.chat_with_tools(TOOLS, user_msg=QUESTION, tool_choice=choice)
    (selection,) = llm.get_tool_calls_from_response(response)
    assert selection.tool_name == name
    assert not call_tool_with_selection(selection, TOOLS).is_error


async def test_none_means_no_call(make_llm: MakeLLM) -> None:
    """Text only, and no call is an empty list, or an error if one is needed."""
    llm = make_llm()
    for way in await chats(llm, tool_choice="none"):
        assert llm.get_tool_calls_from_response(way[-1], error_on_no_tool_call=False) == []
        with pytest.raises(NoToolCall) as error:
            llm.get_tool_calls_from_response(way[-1])
        assert error.value.partial_text == way[-1].message.content


def test_the_grammar_says_what_may_be_called(server: ScriptedServer) -> None:
    """What goes out: the tools in the prompt, the choice as a grammar; nothing for no tools."""
    llm = Libertai(base_url=server.url)
    for choice in ("auto", "required", "add", "none"):
        llm.chat_with_tools(TOOLS, user_msg=QUESTION, tool_choice=choice)
    llm.chat_with_tools([], user_msg=QUESTION)
    auto, required, named, none, without = server.completions
    for each in (auto, required, named, none):
        assert "The weather of a place." in each["prompt"] and "root ::=" in each["grammar"]
    assert "weather" in auto["grammar"] and "weather" in required["grammar"]
    assert "weather" not in named["grammar"] and "arguments" not in none["grammar"]
    assert "grammar" not in without and "tool" not in without["prompt"]


def test_unknown_choices_are_refused(server: ScriptedServer) -> None:
    """A tool that is not there cannot be called."""
    llm = Libertai(base_url=server.url)
    with pytest.raises(InvalidOption, match="subtract"):
        llm.chat_with_tools(TOOLS, user_msg=QUESTION, tool_choice="subtract")
    assert not server.completions


async def test_text_and_calls_are_told_apart(server: ScriptedServer) -> None:
    """Text before a call stays text; no letter of a mark is in it, nor in any delta."""
    server.answer = lambda prompt: f"Let me see.\n{call_text('add', a=3, b=4)}"
    llm = Libertai(base_url=server.url)
    for way in await chats(llm):
        told = "".join(each.delta or "" for each in way)
        assert way[-1].message.content == "Let me see."
        assert told == ("" if len(way) == 1 else "Let me see.")
        text, call = way[-1].message.blocks
        assert isinstance(text, TextBlock) and isinstance(call, ToolCallBlock)
        assert (call.tool_name, call.tool_kwargs) == ("add", {"a": 3, "b": 4})
        assert not any("<" in (each.message.content or "") for each in way)


async def test_a_call_keeps_its_id_while_it_comes(server: ScriptedServer) -> None:
    """From the first chunk that names it; its arguments grow."""
    server.answer = lambda prompt: call_text("weather", place={"city": "Paris", "scale": "C"})
    llm = Libertai(base_url=server.url)
    for way in (await chats(llm))[2:]:
        told = [llm.get_tool_calls_from_response(each, False) for each in way]
        named = [calls[0] for calls in told if calls]
        assert len(named) > 3 and len({call.tool_id for call in named}) == 1
        assert all(isinstance(call.tool_kwargs, dict) for call in named)
        assert {} in [call.tool_kwargs for call in named]
        assert named[-1].tool_kwargs == {"place": {"city": "Paris", "scale": "C"}}


async def test_arguments_are_told_as_far_as_they_came(server: ScriptedServer) -> None:
    """Unfinished texts too; what was told is never taken back."""
    server.answer = lambda prompt: call_text("weather", place={"city": 'a "b" c', "scale": "C"})
    llm = Libertai(base_url=server.url)
    for way in (await chats(llm))[2:]:
        told = [llm.get_tool_calls_from_response(each, False) for each in way]
        places = [calls[0].tool_kwargs.get("place", {}) for calls in told if calls]
        cities = [place["city"] for place in places if "city" in place]
        assert len(set(cities)) > 2
        assert all(after.startswith(before) for before, after in pairwise(cities))


async def test_deeply_nested_arguments_are_no_arguments(server: ScriptedServer) -> None:
    """Weak models open brackets without end: that breaks the call, and nothing else."""
    text = '<tool_call>\n{"name": "now", "arguments": {"a": ' + "[" * 1500
    server.answer = lambda prompt: text
    llm = Libertai(base_url=server.url)
    for way in await chats(llm):
        for response in way[:: max(1, len(way) // 20)]:
            calls = llm.get_tool_calls_from_response(response, False)
            assert all(isinstance(call.tool_kwargs, dict) for call in calls)
        assert not calls_of(way[-1])


async def test_equal_calls_are_two_calls(server: ScriptedServer) -> None:
    """Each with an id of its own, in streams too."""
    server.answer = lambda prompt: "\n".join([call_text("add", a=1, b=1)] * 2)
    llm = Libertai(base_url=server.url)
    for way in await chats(llm, allow_parallel_tool_calls=True):
        calls = llm.get_tool_calls_from_response(way[-1])
        assert [call.tool_kwargs for call in calls] == [{"a": 1, "b": 1}] * 2
        assert len({call.tool_id for call in calls}) == 2


async def test_one_call_is_asked_for_unless_several_may_come(server: ScriptedServer) -> None:
    """By the grammar; a server that sends two nevertheless is cut to the first, in all ways."""
    server.answer = lambda prompt: "\n".join([call_text("add", a=1, b=1), call_text("now")])
    llm = Libertai(base_url=server.url)
    for way in await chats(llm):
        assert [call.tool_name for call in calls_of(way[-1])] == ["add"]
    for way in await chats(llm, allow_parallel_tool_calls=True):
        assert [call.tool_name for call in calls_of(way[-1])] == ["add", "now"]
    grammars = [each["grammar"] for each in server.completions]
    assert len(set(grammars[:4])) == len(set(grammars[4:])) == 1 and grammars[0] != grammars[4]


def test_a_call_that_was_cut_off_is_none(server: ScriptedServer) -> None:
    """Half a call must not be made; the error says what there was of it."""
    server.answer = lambda prompt: call_text("add", a=1, b=1)[:-20]
    llm = Libertai(base_url=server.url)
    response = llm.chat_with_tools(TOOLS, user_msg=QUESTION, tool_required=True)
    assert not calls_of(response)
    assert response.additional_kwargs["invalid_tool_calls"]
    with pytest.raises(NoToolCall) as error:
        llm.get_tool_calls_from_response(response)
    assert '"a": 1' in error.value.partial_text


def test_history_is_read_only(server: ScriptedServer) -> None:
    """The caller's list and its messages stay as they were."""
    history = [ChatMessage("Be brief.", role="system"), ChatMessage("Hello!")]
    before = copy.deepcopy(history)
    options = {"temperature": 0}
    Libertai(base_url=server.url).chat_with_tools(
        TOOLS, user_msg=QUESTION, chat_history=history, **options
    )
    assert history == before and options == {"temperature": 0}
    (sent,) = server.completions
    assert sent["prompt"].index("Hello!") < sent["prompt"].index(QUESTION)


def test_a_message_can_be_the_question(server: ScriptedServer) -> None:
    """Text, a message, or nothing but the history."""
    llm = Libertai(base_url=server.url)
    llm.chat_with_tools(TOOLS, user_msg=ChatMessage(QUESTION))
    llm.chat_with_tools(TOOLS, chat_history=[ChatMessage(QUESTION)])
    llm.chat_with_tools(TOOLS, user_msg=QUESTION)
    assert len({each["prompt"] for each in server.completions}) == 1


def test_a_round_of_calls_is_read_from_the_cache(server: ScriptedServer) -> None:
    """Question, call, result, answer: the second prompt goes on where the call ended."""
    server.answer = lambda prompt: call_text("add", a=3, b=4)
    llm = Libertai(base_url=server.url)
    history = [ChatMessage(QUESTION)]
    first = llm.chat_with_tools(TOOLS, chat_history=history)
    (call,) = calls_of(first)
    result = ChatMessage("7", role="tool", additional_kwargs={"tool_call_id": call.tool_call_id})
    llm.chat_with_tools(TOOLS, chat_history=[*history, first.message, result])
    one, two = server.completions
    assert two["prompt"].startswith(one["prompt"] + call_text("add", a=3, b=4))
    assert two["slot_id"] == first.raw["slot_id"]


def test_tools_of_one_name_are_refused(server: ScriptedServer) -> None:
    """Nobody could say which one was called."""
    with pytest.raises(InvalidOption, match="add"):
        Libertai(base_url=server.url).chat_with_tools([ADD, ADD], user_msg=QUESTION)


def test_no_arguments_are_an_empty_object(server: ScriptedServer) -> None:
    """A tool without parameters is called with none."""
    server.answer = lambda prompt: call_text("now")
    llm = Libertai(base_url=server.url)
    response = llm.chat_with_tools([NOW, WEATHER], user_msg="What time is it?")
    (selection,) = llm.get_tool_calls_from_response(response)
    assert selection.tool_kwargs == {}
    assert call_tool_with_selection(selection, [NOW, WEATHER]).content == "noon"
