"""Group 6: agents run as LlamaIndex runs them, from question to answer.

Where the words matter, a scripted server says them; where only the form does, a random model is
held to it by grammars.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llama_index.core.agent.workflow import (
    AgentStream,
    AgentWorkflow,
    CodeActAgent,
    FunctionAgent,
    ReActAgent,
    ToolCallResult,
)
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer

from libertai_llm.llama_index import Libertai, NoToolCall
from tests.llm.langchain.scripted import ScriptedServer
from tests.llm.llama_index.conftest import MakeLLM
from tests.llm.llama_index.toolbox import ADD, NOW, TOOLS, Weather, call_text

QUESTION = "What is 3 plus 4?"
ADD_CALL = call_text("add", a=3, b=4)
# LlamaIndex's agents use names of pydantic's, and of its own workflows, that are going away.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def saying(*answers: str) -> Callable[[str], str]:
    """One answer after the other, whatever is asked."""
    left: Iterator[str] = iter(answers)
    return lambda prompt: next(left)


async def run(agent: Any, question: str = QUESTION, **options: Any) -> tuple[Any, list[Any]]:
    """The agent's answer, and what it told on the way."""
    handler = agent.run(question, **options)
    events = [event async for event in handler.stream_events()]
    return await handler, events


def memory() -> ChatMemoryBuffer:
    return ChatMemoryBuffer.from_defaults(token_limit=8000, tokenizer_fn=str.split)


def test_a_call_is_predicted_and_made(make_llm: MakeLLM) -> None:
    """`predict_and_call`, held to one of the tools."""
    response = make_llm(max_tokens=200).predict_and_call(
        TOOLS, user_msg=QUESTION, tool_choice="add", error_on_tool_error=True
    )
    assert response.response.isdigit() and response.sources[0].tool_name == "add"


async def test_a_call_is_predicted_and_awaited(make_llm: MakeLLM) -> None:
    """`apredict_and_call`."""
    response = await make_llm(max_tokens=200).apredict_and_call(
        TOOLS, user_msg=QUESTION, tool_required=True, error_on_tool_error=True
    )
    assert response.sources[0].tool_name in {"add", "weather", "now"}


async def test_no_call_is_an_error_or_text(server: ScriptedServer) -> None:
    """As the caller wishes."""
    server.answer = lambda prompt: "Seven."
    llm = Libertai(base_url=server.url)
    with pytest.raises(NoToolCall):
        llm.predict_and_call(TOOLS, user_msg=QUESTION)
    said = await llm.apredict_and_call(TOOLS, user_msg=QUESTION, error_on_no_tool_call=False)
    assert said.response == "Seven."


async def test_several_calls_are_made_at_once(server: ScriptedServer) -> None:
    """With their results in their order."""
    server.answer = lambda prompt: "\n".join([ADD_CALL, call_text("add", a=1, b=1), ADD_CALL])
    llm = Libertai(base_url=server.url)
    said = await llm.apredict_and_call([ADD], user_msg=QUESTION, allow_parallel_tool_calls=True)
    assert said.response == "7\n\n2\n\n7"


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_function_agent_calls_and_answers(server: ScriptedServer, streaming: bool) -> None:
    """Question, call, result, answer; the second prompt goes on where the first answer ended."""
    server.answer = saying(ADD_CALL, "It is seven.")
    llm = Libertai(base_url=server.url)
    agent = FunctionAgent(tools=TOOLS, llm=llm, system_prompt="Use tools.", streaming=streaming)
    answer, events = await run(agent, memory=memory())
    assert str(answer) == "It is seven."
    (result,) = [event for event in events if isinstance(event, ToolCallResult)]
    assert result.tool_output.content == "7" and result.tool_kwargs == {"a": 3, "b": 4}
    told = "".join(event.delta for event in events if isinstance(event, AgentStream))
    assert told == ("It is seven." if streaming else "")
    one, two = server.completions
    assert two["prompt"].startswith(one["prompt"] + ADD_CALL) and two["slot_id"] == 0
    assert "Use tools." in one["prompt"] and "\n7<|im_end|>" in two["prompt"]


async def test_a_first_tool_can_be_chosen(make_llm: MakeLLM) -> None:
    """A random model, held to its first call, whose result it then babbles about."""
    agent = FunctionAgent(tools=[ADD, NOW], llm=make_llm(max_tokens=120), initial_tool_choice="add")
    _, events = await run(agent, memory=memory())
    results = [event for event in events if isinstance(event, ToolCallResult)]
    assert results[0].tool_name == "add" and not results[0].tool_output.is_error


async def test_an_agent_ends_with_an_object(server: ScriptedServer) -> None:
    """`output_cls`: a last answer of the class."""
    weather = {"city": "Rome", "degrees": 20, "wet": False, "scale": "C", "wind": None}
    server.answer = saying("Mild and dry.", json.dumps(weather))
    agent = FunctionAgent(tools=[NOW], llm=Libertai(base_url=server.url), output_cls=Weather)
    answer, _ = await run(agent, "How is Rome?", memory=memory())
    assert answer.get_pydantic_model(Weather) == Weather.model_validate(weather)


async def test_agents_hand_over(server: ScriptedServer) -> None:
    """A workflow of two: the first hands over by a call, the second answers."""
    handoff = call_text("handoff", to_agent="reckoner", reason="numbers")
    server.answer = saying(handoff, ADD_CALL, "It is seven.")
    llm = Libertai(base_url=server.url)
    greeter = FunctionAgent(
        name="greeter", description="Greets.", tools=[NOW], llm=llm, can_handoff_to=["reckoner"]
    )
    reckoner = FunctionAgent(name="reckoner", description="Adds.", tools=[ADD], llm=llm)
    workflow = AgentWorkflow(agents=[greeter, reckoner], root_agent="greeter")
    answer, _ = await run(workflow, memory=memory())
    assert str(answer) == "It is seven." and answer.current_agent_name == "reckoner"


async def test_a_workflow_chooses_function_agents(server: ScriptedServer) -> None:
    """Tools alone make an agent that calls them; a model that cannot call gets the other kind."""
    server.answer = saying(ADD_CALL, "It is seven.")
    llm = Libertai(base_url=server.url)
    workflow = AgentWorkflow.from_tools_or_functions([ADD], llm=llm)
    assert isinstance(workflow.agents[workflow.root_agent], FunctionAgent)
    answer, _ = await run(workflow, memory=memory())
    assert str(answer) == "It is seven."
    cannot = Libertai(base_url=server.url, is_function_calling_model=False)
    workflow = AgentWorkflow.from_tools_or_functions([ADD], llm=cannot)
    assert isinstance(workflow.agents[workflow.root_agent], ReActAgent)


async def test_a_react_agent_stops_at_its_observation(server: ScriptedServer) -> None:
    """The model's stop words, which that agent does not send: nothing is made up."""
    server.answer = saying(
        'Thought: I add.\nAction: add\nAction Input: {"a": 3, "b": 4}\nObservation: 99',
        "Thought: I can answer without using any more tools.\nAnswer: It is seven.",
    )
    llm = Libertai(base_url=server.url, stop=["Observation:"])
    answer, events = await run(ReActAgent(tools=[ADD], llm=llm), memory=memory())
    assert str(answer) == "It is seven."
    (result,) = [event for event in events if isinstance(event, ToolCallResult)]
    assert result.tool_output.content == "7"
    _, two = server.completions
    assert "Observation: 7" in two["prompt"] and "99" not in two["prompt"]


async def test_a_react_agent_asks_again(server: ScriptedServer) -> None:
    """After an answer of no form it says so: user, assistant, user."""
    server.answer = saying(
        "Action: nothing I know\n",
        "Thought: I can answer without using any more tools.\nAnswer: It is seven.",
    )
    agent = ReActAgent(tools=[ADD], llm=Libertai(base_url=server.url))
    answer, _ = await run(agent, memory=memory())
    assert str(answer) == "It is seven." and len(server.completions) == 2


async def test_a_code_agent_runs_code(server: ScriptedServer) -> None:
    """Code in the answer is run, and its output read."""
    server.answer = saying("<execute>\nprint(3 + 4)\n</execute>", "It is seven.")
    ran = []

    def execute(code: str) -> str:
        ran.append(code)
        return "7"

    agent = CodeActAgent(code_execute_fn=execute, llm=Libertai(base_url=server.url))
    answer, _ = await run(agent, memory=memory())
    assert str(answer) == "It is seven." and "print(3 + 4)" in ran[0]


async def test_an_agent_that_runs_too_long_says_something(server: ScriptedServer) -> None:
    """`early_stopping_method="generate"`: a system message at the end of a chat."""
    server.answer = saying(ADD_CALL, "That is all I know.")
    agent = FunctionAgent(
        tools=[ADD], llm=Libertai(base_url=server.url), early_stopping_method="generate"
    )
    answer, _ = await run(agent, max_iterations=1, memory=memory())
    assert str(answer) == "That is all I know."


async def test_agents_remember_through_json(server: ScriptedServer) -> None:
    """A memory that was written down, calls and results too, goes on where it ended."""
    server.answer = saying(ADD_CALL, "It is seven.", "As I said.")
    agent = FunctionAgent(tools=[ADD], llm=Libertai(base_url=server.url))
    before, after = memory(), memory()
    await run(agent, memory=before)
    written = [message.model_dump_json() for message in before.get_all()]
    after.set([ChatMessage.model_validate_json(each) for each in written])
    answer, _ = await run(agent, "Really?", memory=after)
    assert str(answer) == "As I said."
    _, two, three = server.completions
    assert three["prompt"].startswith(two["prompt"] + "It is seven.")


async def test_answers_can_be_stored(make_llm: MakeLLM) -> None:
    """Messages with text, calls and results survive JSON."""
    llm = make_llm(max_tokens=200)
    response = llm.chat_with_tools(TOOLS, user_msg=QUESTION, tool_required=True)
    message = ChatMessage.model_validate(json.loads(response.message.model_dump_json()))
    assert message == response.message
    json.dumps(response.raw)
    json.dumps(response.additional_kwargs)
