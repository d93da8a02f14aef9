"""Tools: what a model may call, the grammar that holds it to it, and its answers taken apart.

In: tool definitions and a choice; then the text of an answer. Out: GBNF text for the server, what
the prompt says of tools where the chat template says nothing, and calls as they come.
"""

from libertai_llm.tools.definitions import (
    HERMES,
    CallSyntax,
    Reasoning,
    Tool,
    ToolChoice,
)
from libertai_llm.tools.events import (
    ArgumentsDelta,
    CallEnded,
    CallInvalid,
    CallStarted,
    ContentDelta,
    Event,
    InvalidToolCall,
    ParsedAnswer,
    ReasoningDelta,
    ToolCall,
)
from libertai_llm.tools.grammar import Schema, tool_grammar
from libertai_llm.tools.parser import ToolCallParser, answer_of, new_call_id, parse_answer

__all__ = [
    "HERMES",
    "ArgumentsDelta",
    "CallEnded",
    "CallInvalid",
    "CallStarted",
    "CallSyntax",
    "ContentDelta",
    "Event",
    "InvalidToolCall",
    "ParsedAnswer",
    "Reasoning",
    "ReasoningDelta",
    "Schema",
    "Tool",
    "ToolCall",
    "ToolCallParser",
    "ToolChoice",
    "answer_of",
    "new_call_id",
    "parse_answer",
    "tool_grammar",
]
