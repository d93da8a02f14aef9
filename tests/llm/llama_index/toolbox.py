"""Tools and classes that the tests of calls, agents and structured output share.

In: nothing. Out: LlamaIndex's tools around plain functions, and a model's way to write a call.

NOTE: without postponed annotations, which LlamaIndex cannot read off a tool's function.
"""

import json
from enum import Enum
from typing import Any, Literal

from llama_index.core.base.llms.types import ChatResponse, ToolCallBlock
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field

City = Literal["Paris", "Rome", "Oslo"]
Digit = Literal[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


class Scale(str, Enum):
    """Of a temperature."""

    CELSIUS = "C"
    FAHRENHEIT = "F"


class Place(BaseModel):
    """Where it is."""

    city: City
    scale: Scale = Scale.CELSIUS


def add(a: Digit, b: Digit) -> int:
    """Add two digits."""
    return a + b


def weather(place: Place) -> str:
    """The weather of a place."""
    found = Place.model_validate(place)  # NOTE: LlamaIndex hands nested objects over as dicts.
    return f"20 {found.scale.value} in {found.city}"


def now() -> str:
    """The time."""
    return "noon"


ADD, WEATHER, NOW = (FunctionTool.from_defaults(fn=each) for each in (add, weather, now))
TOOLS = [ADD, WEATHER, NOW]


class Weather(BaseModel):
    """What the weather is like."""

    city: City
    degrees: int = Field(ge=-9, le=40)
    wet: bool
    scale: Scale
    wind: Literal["calm", "storm"] | None = None


class Trip(BaseModel):
    """A journey with its stops."""

    stops: list[Place] = Field(min_length=1, max_length=2)
    first: Weather
    mood: Literal["good"] | Digit


def call_text(name: str, /, **arguments: Any) -> str:
    """A call as a model writes it."""
    body = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{body}\n</tool_call>"


def calls_of(response: ChatResponse) -> list[ToolCallBlock]:
    """The calls of an answer."""
    return [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
