"""Tools as LangChain describes them: functions, models and dicts through `convert_to_openai_tool`.

In: nothing. Out: `TOOLS`, the definitions by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from langchain_core.tools import StructuredTool, tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, Field
from typing_extensions import TypedDict


def no_arguments() -> str:
    """Say what time it is."""
    return ""


def get_weather(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> str:
    """Tell the weather.

    Args:
        city: Where.
        unit: In which unit.
    """
    return ""


def multiply(a: int, b: int) -> int:
    """Multiply."""
    return a * b


def search(query: str, limit: int = 10, exact: bool = False, tags: list[str] | None = None) -> str:
    """Search."""
    return ""


def book(start: str, seats: Annotated[int, Field(ge=1, le=9)], extras: dict[str, bool]) -> str:
    """Book seats."""
    return ""


@tool
def send_mail(to: list[str], subject: str, body: str = "") -> str:
    """Send a mail."""
    return ""


@tool(parse_docstring=True)
def convert(amount: float, source: str, target: str) -> float:
    """Convert money.

    Args:
        amount: How much.
        source: Of which currency.
        target: To which currency.
    """
    return amount


class Where(BaseModel):
    """A place."""

    latitude: float = Field(ge=-90, le=90)
    longitude: float = Field(ge=-180, le=180)


class Route(BaseModel):
    """Find a way between places."""

    stops: list[Where] = Field(min_length=2, max_length=5)
    mode: Literal["car", "bike", "foot"] = "car"


class Event(TypedDict, total=False):
    """Put an event into the calendar."""

    title: str
    minutes: Annotated[int, ..., "How long"]
    guests: list[str]


class Filter(BaseModel):
    """A comparison, or several."""

    field: str
    operator: Literal["eq", "lt", "gt"]
    value: str | int | float | bool | None


class Query(BaseModel):
    """Ask the database."""

    table: str = Field(pattern="^[a-z_]{1,20}$")
    filters: list[Filter] = []
    limit: int | None = Field(default=None, ge=1, le=1000)


class Nested(BaseModel):
    """Create a folder with what is in it."""

    name: str
    folders: list[Nested] = []


def _structured(x: int, y: int | None = None) -> int:
    return x + (y or 0)


ADD = StructuredTool.from_function(_structured, name="add", description="Add.")

JSON_SCHEMA = {
    "title": "Note",
    "description": "Take a note.",
    "type": "object",
    "properties": {
        "text": {"type": "string", "minLength": 1},
        "due": {"type": "string", "format": "date"},
        "priority": {"type": "integer", "enum": [1, 2, 3]},
    },
    "required": ["text"],
}

ANTHROPIC = {
    "name": "get_stock",
    "description": "Price of a share.",
    "input_schema": {
        "type": "object",
        "properties": {"ticker": {"type": "string", "pattern": "^[A-Z.]{1,6}$"}},
        "required": ["ticker"],
        "additionalProperties": False,
    },
}

OPENAI = {
    "type": "function",
    "function": {
        "name": "control",
        "description": "Set devices.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "device": {"type": ["string", "null"]},
                "values": {"type": "array", "items": {"type": ["number", "string"]}},
                "state": {"anyOf": [{"type": "boolean"}, {"enum": ["toggle"]}]},
            },
            "required": ["device", "values", "state"],
            "additionalProperties": False,
        },
    },
}

BEDROCK = {
    "toolSpec": {
        "name": "translate",
        "description": "Translate.",
        "inputSchema": {
            "json": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "to": {"type": "string", "enum": ["de", "fr", "日本語"]},
                },
                "required": ["text", "to"],
            }
        },
    }
}

_SOURCES: list[Any] = [
    *(no_arguments, get_weather, multiply, search, book, send_mail, convert, Where, Route),
    *(Event, Filter, Query, Nested, ADD, JSON_SCHEMA, ANTHROPIC, OPENAI, BEDROCK),
]
_DEFINITIONS = [convert_to_openai_tool(source)["function"] for source in _SOURCES]
# With `strict`, every property is required and there are no others.
_STRICT = [
    convert_to_openai_tool(source, strict=True)["function"]
    for source in (get_weather, multiply, Filter, Where)
]
TOOLS: dict[str, dict[str, Any]] = {
    **{each["name"]: each["parameters"] for each in _DEFINITIONS},
    **{each["name"] + "-strict": each["parameters"] for each in _STRICT},
}
