"""Tools and objects on real servers: what they make of our grammars, recorded.

In: recordings of the December-2023 server behind a sticky balancer, which knows nothing but
`grammar`, and of today's server. Out: calls, objects and typed errors; sync and async alike. Every
request says `repeat_penalty` 1, by default.
"""

from __future__ import annotations

from typing import Any, Literal

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from pydantic import BaseModel, Field

from libertai_llm.langchain import ChatLibertai, LibertaiLLM, TruncatedAnswer
from tests.llm.recorded.driver import Driver

pytestmark = [
    pytest.mark.vcr,
    pytest.mark.block_network,
    pytest.mark.parametrize("server", ["dec2023-sticky", "today"], indirect=True),
]
OPTIONS: dict[str, Any] = {"temperature": 0, "max_tokens": 64}
THREAD: dict[str, Any] = {"configurable": {"thread_id": "one"}}


class Person(BaseModel):
    """Somebody."""

    age: int = Field(ge=0, le=99)
    mood: Literal["good", "très bien", "bad"]
    size: float | None = None


def add(a: Literal[1, 2, 3], b: Literal[4, 5, 6]) -> int:
    """Add two numbers."""
    return a + b


def noon() -> str:
    """Tell when noon is."""
    return "12:00"


async def test_a_call_that_is_asked_for_is_made(server: Any, style: str) -> None:
    """Any, or a certain one; whole and streamed; its arguments are of its schema."""
    async with ChatLibertai(base_url=server.url, cache_prompt=False, **OPTIONS) as model:
        for choice, names in (("any", ("add", "noon")), ("add", ("add",)), ("noon", ("noon",))):
            chain = Driver(model.bind_tools([add, noon], tool_choice=choice), server, style)
            whole: AIMessage = await chain.invoke("What is 2 plus 5?")
            chunks = await chain.stream("What is 2 plus 5?")
            total = sum(chunks[1:], chunks[0])
            (call,) = whole.tool_calls
            assert call["name"] in names
            assert (
                call["args"] == {} if call["name"] == "noon" else add(**call["args"]) in range(10)
            )
            assert [(each["name"], each["args"]) for each in total.tool_calls] == [
                (call["name"], call["args"])
            ]
            assert whole.response_metadata["finish_reason"] == "tool_calls"
            assert whole.content == total.content == ""


async def test_several_calls_and_none(server: Any, style: str) -> None:
    """As many as are allowed; where none is, none can be."""
    async with ChatLibertai(base_url=server.url, cache_prompt=False, **OPTIONS) as model:
        several = model.bind_tools([noon], tool_choice="any", parallel_tool_calls=True)
        message = await Driver(several, server, style).invoke("When is noon?")
        assert all(call["name"] == "noon" for call in message.tool_calls) and message.tool_calls
        none = model.bind_tools([noon], tool_choice="none")
        message = await Driver(none, server, style).invoke("When is noon?")
        assert not message.tool_calls and not message.invalid_tool_calls and message.content


async def test_a_call_its_result_and_the_answer(server: Any, style: str) -> None:
    """One thread: the answer's prompt is, as far as it goes, what the slot has evaluated."""
    async with ChatLibertai(base_url=server.url, **OPTIONS) as model:
        history: list[BaseMessage] = [HumanMessage("What is 2 plus 5?")]
        forced = Driver(model.bind_tools([add], tool_choice="any"), server, style)
        history.append(await forced.invoke(history, config=THREAD))
        assert isinstance(history[-1], AIMessage)
        (call,) = history[-1].tool_calls
        history.append(ToolMessage(str(add(**call["args"])), tool_call_id=call["id"]))
        free = Driver(model.bind_tools([add]), server, style)
        answer = await free.invoke(history, config=THREAD)
    usage = answer.usage_metadata
    assert usage["input_token_details"]["cache_read"] > usage["input_tokens"] / 2
    assert answer.response_metadata["finish_reason"] in ("stop", "length", "tool_calls")


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_objects_from_chats_and_completions(server: Any, style: str, method: Any) -> None:
    """Of a class and as a dict, whole and streamed."""
    options = {**OPTIONS, "max_tokens": 128, "cache_prompt": False}
    async with (
        ChatLibertai(base_url=server.url, **options) as chat,
        LibertaiLLM(base_url=server.url, **options) as llm,
    ):
        for model in (chat, llm):
            of_class = Driver(model.with_structured_output(Person, method=method), server, style)
            found = await of_class.invoke("How is Anna?")
            assert isinstance(found, Person)
            schema = Person.model_json_schema()
            of_dict = Driver(model.with_structured_output(schema, method=method), server, style)
            parts = await of_dict.stream("How is Anna?")
            assert Person.model_validate(parts[-1]) == found


async def test_too_few_tokens(server: Any, style: str) -> None:
    """A typed error with the text so far, from servers that cannot close a grammar."""
    async with ChatLibertai(base_url=server.url, cache_prompt=False, **OPTIONS) as model:
        chain = model.with_structured_output(Person, max_tokens=5)
        with pytest.raises(TruncatedAnswer) as caught:
            await Driver(chain, server, style).invoke("How is Anna?")
    assert (caught.value.llm_output or "").startswith('{"')


async def test_a_call_or_an_object(server: Any, style: str) -> None:
    """What an agent asks for: one of both, and nothing else."""
    async with ChatLibertai(base_url=server.url, cache_prompt=False, **OPTIONS) as model:
        chain = model.bind_tools([noon], response_format=Person)
        message = await Driver(chain, server, style).invoke("How is Anna?")
    if message.tool_calls:
        assert [call["name"] for call in message.tool_calls] == ["noon"]
    else:
        Person.model_validate_json(message.content)
