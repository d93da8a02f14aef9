"""Three kinds of agents with the same two tools: calls by grammar, calls in words, a workflow.

Run: python examples/llamaindex/agents.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

import asyncio

from llama_index.core.agent.react import ReActChatFormatter
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent, ToolCallResult

from libertai_llm.llama_index import Libertai

FORM = "Tools:\n{tool_desc}\nWrite `Thought:`, then `Action:` with one of {tool_names} and \
`Action Input:` with JSON, or `Answer:` with the answer."


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


async def main() -> None:
    """Ask each of them."""
    llm = Libertai(temperature=0, max_tokens=64, repeat_penalty=1.0, stop=["Observation:"]).learn()
    given = {"tools": [add, multiply], "llm": llm}
    short = ReActChatFormatter.from_defaults(system_header=FORM)
    for agent in (
        FunctionAgent(**given, initial_tool_choice="add"),
        ReActAgent(**given, formatter=short),
        AgentWorkflow(agents=[FunctionAgent(**given)]),
    ):
        print(f"{type(agent).__name__}> What is 12 plus 30?")
        handler = agent.run("What is 12 plus 30?", max_iterations=4)
        async for event in handler.stream_events():
            if isinstance(event, ToolCallResult):
                print(f"  {event.tool_name}({event.tool_kwargs}) = {event.tool_output.content}")
        print(f"  {await handler}")


if __name__ == "__main__":
    asyncio.run(main())
