"""Structured output: what is asked for, and that an answer is an object or a typed error."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.v1 import BaseModel as BaseModelV1
from typing_extensions import TypedDict

from libertai_engine.engine import Engine
from libertai_llm.errors import InvalidOption, LibertaiError
from libertai_llm.langchain import ChatLibertai, InvalidAnswer, LibertaiLLM, TruncatedAnswer
from libertai_llm.langchain.tools import as_definition, json_schema_of, titled
from tests.llm.langchain.scripted import ScriptedServer


class Joke(BaseModel):
    """A joke."""

    setup: str
    rating: int | None = Field(default=None, description="1 to 10")

    @field_validator("setup")
    @classmethod
    def _funny(cls, text: str) -> str:
        if text == "not funny":
            raise ValueError("not funny at all")
        return text


class JokeV1(BaseModelV1):
    """A joke."""

    setup: str
    rating: int | None = None


class JokeDict(TypedDict):
    """A joke."""

    setup: Annotated[str, ..., "the first line"]
    rating: Annotated[int | None, None, "1 to 10"]


class Appointment(BaseModel):
    """A class that converts nothing."""

    model_config = ConfigDict(strict=True)

    day: date
    pair: tuple[int, int]


class Tree(BaseModel):
    """What refers to itself."""

    name: str
    branches: list[Tree] = []


class Forest(BaseModel):
    """What holds such things."""

    first: Tree


@tool
def plant(tree: Tree) -> str:
    """Plant a tree."""
    return tree.name


SCHEMA = Joke.model_json_schema()
PARTS: dict[str, Any] = {"properties": SCHEMA["properties"], "required": ["setup"]}
FUNCTION = {"name": "joke", "description": "A joke.", "parameters": {"type": "object", **PARTS}}
FORMAT = {"name": "joke", "strict": True, "schema": {"type": "object", **PARTS}}
SCHEMAS = [Joke, JokeV1, JokeDict, SCHEMA, {"type": "object", **PARTS}, FUNCTION, FORMAT]
METHODS = ["json_schema", "function_calling", "json_mode"]
TEXT = '{"setup": "Why é?", "rating": 7}'
FOUND = {"setup": "Why é?", "rating": 7}

every_schema = pytest.mark.parametrize(
    "schema", SCHEMAS, ids=["pydantic", "v1", "typeddict", "titled", "bare", "function", "format"]
)
every_method = pytest.mark.parametrize("method", METHODS)
both = pytest.mark.parametrize("kind", [ChatLibertai, LibertaiLLM])


@pytest.fixture
def models(server: ScriptedServer) -> Iterator[dict[Any, Any]]:
    with ChatLibertai(base_url=server.url) as chat, LibertaiLLM(base_url=server.url) as llm:
        yield {ChatLibertai: chat, LibertaiLLM: llm}


@pytest.mark.parametrize(
    "schema", [Tree, Forest, Tree.model_json_schema(), Forest.model_json_schema()], ids=range(4)
)
def test_what_refers_to_itself_is_asked_for_as_it_is(schema: Any) -> None:
    """All of it: anything would do for what is left out."""
    asked = [json_schema_of(schema), as_definition(titled(schema), None)["function"]["parameters"]]
    for found in [*asked, as_definition(plant, None)["function"]["parameters"]]:
        assert found["$defs"]["Tree"]["properties"]["branches"]["items"] == {"$ref": "#/$defs/Tree"}


def test_schemas_that_are_no_objects_are_kept() -> None:
    """A dict without `properties` is a schema all the same."""
    schema = {"title": "numbers", "type": "array", "items": {"type": "integer"}}
    assert json_schema_of(schema) == schema


def test_a_schema_in_the_form_of_a_format_is_kept() -> None:
    """All of it: a grammar of its name alone would let anything through."""
    found = json_schema_of(FORMAT)
    assert found["title"] == "joke" and found["properties"] == PARTS["properties"]
    parameters = as_definition(titled(FORMAT), None)["function"]["parameters"]
    assert parameters["required"] == ["setup"]


def answering(server: ScriptedServer, method: str, text: str) -> None:
    """Answer as a server that holds to the grammar would: calls carry the name that is in it."""

    def answer(prompt: str) -> str:
        if method != "function_calling":
            return text
        grammar = server.seen[-1].body["grammar"]
        name = grammar.partition('{\\"name\\": \\"')[2].partition("\\")[0]
        return f'<tool_call>\n{{"name": "{name}", "arguments": {text}}}\n</tool_call>'

    server.answer = answer


def as_dict(found: Any) -> dict[str, Any]:
    if isinstance(found, dict):
        return found
    return found.model_dump() if isinstance(found, BaseModel) else found.dict()


@both
@every_method
@every_schema
async def test_every_schema_and_method(
    models: dict[Any, Any], server: ScriptedServer, kind: Any, method: Any, schema: Any
) -> None:
    """An object of the class, or a dict; blocking or not, and at the end of a stream."""
    answering(server, method, TEXT)
    model = models[kind].with_structured_output(schema, method=method)
    streamed = list(model.stream("x"))
    found = [model.invoke("x"), await model.ainvoke("x"), streamed[-1]]
    found.append([each async for each in model.astream("x")][-1])
    for each in found:
        assert as_dict(each) == FOUND
        assert isinstance(each, schema if schema in (Joke, JokeV1) else dict)
    if kind is ChatLibertai and isinstance(streamed[0], dict):
        assert len(streamed) > 3 and streamed[0] != FOUND
    assert all(body["grammar"] for body in server.completions)
    assert len({body["grammar"] for body in server.completions}) == 1


@both
@every_method
@pytest.mark.parametrize("schema", [Joke, SCHEMA], ids=["pydantic", "dict"])
async def test_too_few_tokens_are_a_typed_error(
    models: dict[Any, Any], server: ScriptedServer, kind: Any, method: Any, schema: Any
) -> None:
    """With the text so far; never None, never half an object, however it is asked for."""
    answering(server, method, TEXT)
    cut = 12 if method != "function_calling" else 55
    model = models[kind].with_structured_output(schema, method=method, max_tokens=cut)

    async def drained() -> Any:
        return [each async for each in model.astream("x")]

    for ask in (lambda: model.invoke("x"), lambda: list(model.stream("x"))):
        with pytest.raises(TruncatedAnswer, match="raise `max_tokens`") as caught:
            ask()
        # NOTE: a call that was cut off in a stream ends with a bracket that closes nothing.
        assert caught.value.llm_output and TEXT.startswith(caught.value.llm_output.rstrip('"]'))
        assert isinstance(caught.value, LibertaiError)
        assert isinstance(caught.value, OutputParserException)
    with pytest.raises(TruncatedAnswer):
        await model.ainvoke("x")
    with pytest.raises(TruncatedAnswer):
        await drained()


@both
@every_method
def test_include_raw(
    models: dict[Any, Any], server: ScriptedServer, kind: Any, method: Any
) -> None:
    """The answer itself, the object or None, and what was wrong instead of an exception."""
    answering(server, method, TEXT)
    model = models[kind].with_structured_output(Joke, method=method, include_raw=True)
    found = model.invoke("x")
    assert found["parsed"] == Joke(**FOUND) and found["parsing_error"] is None
    assert isinstance(found["raw"], AIMessage if kind is ChatLibertai else str)
    answering(server, method, '{"setup": "not funny"}')
    failed = model.invoke("x")
    assert failed["parsed"] is None and failed["raw"]
    assert isinstance(failed["parsing_error"], InvalidAnswer)
    assert not isinstance(failed["parsing_error"], TruncatedAnswer)
    assert "not funny at all" in str(failed["parsing_error"])


@both
def test_json_mode_needs_no_schema(
    models: dict[Any, Any], server: ScriptedServer, kind: Any
) -> None:
    """Any object; the other methods say that they need one."""
    answering(server, "json_mode", '{"any": ["thing"]}')
    model = models[kind]
    assert model.with_structured_output(method="json_mode").invoke("x") == {"any": ["thing"]}
    for method in ("json_schema", "function_calling"):
        with pytest.raises(InvalidOption, match="needs a schema"):
            model.with_structured_output(method=method)
    with pytest.raises(InvalidOption, match="none of json_schema"):
        model.with_structured_output(Joke, method="xml")
    with pytest.raises(ValueError, match="`colour`"):
        model.with_structured_output(Joke, colour="red")


def test_a_server_that_knows_no_grammar_is_found_out(
    models: dict[Any, Any], server: ScriptedServer
) -> None:
    """An answer in prose is an error with its text, not an object of nothing."""
    for model in models.values():
        for method in METHODS:
            with pytest.raises(InvalidAnswer, match="not JSON") as caught:
                model.with_structured_output(Joke, method=method).invoke("x")
            assert caught.value.llm_output == " fine"


@pytest.mark.parametrize("strict", [None, False, True])
@every_method
def test_strict_is_taken(
    models: dict[Any, Any], server: ScriptedServer, method: Any, strict: bool | None
) -> None:
    """In all methods, with the same grammar: it holds whatever `strict` says."""
    answering(server, method, TEXT)
    model = models[ChatLibertai].with_structured_output(Joke, method=method, strict=strict)
    assert model.invoke("x") == Joke(**FOUND)
    told = model.first.kwargs["ls_structured_output_format"]
    assert told == {"kwargs": {"method": method, "strict": strict}, "schema": Joke}


def test_tools_may_come_first(models: dict[Any, Any], server: ScriptedServer) -> None:
    """An answer that calls one is no object yet, and no error: `include_raw` shows the call."""
    tool = {"name": "look", "description": "Look."}
    call = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
    for method in ("json_schema", "function_calling"):
        model = models[ChatLibertai].with_structured_output(
            Joke, method=method, tools=[tool], include_raw=True
        )
        server.answer = lambda prompt: call
        found = model.invoke("x")
        assert found["raw"].tool_calls[0]["name"] == "look"
        assert found["parsed"] is None and found["parsing_error"] is None
        text = TEXT
        if method == "function_calling":
            text = call.replace("look", "Joke").replace("{}", TEXT)
        server.answer = lambda prompt, text=text: text
        assert model.invoke("x")["parsed"] == Joke(**FOUND)


@pytest.mark.parametrize(
    "text", ['<tool_call>\n{"na', '<tool_call>\n{"name": "look", "arguments": {"a"']
)
async def test_a_call_that_was_cut_off_is_no_call(
    models: dict[Any, Any], server: ScriptedServer, text: str
) -> None:
    """It is not taken for one that was made instead of the object."""
    tool = {"name": "look", "description": "Look."}
    server.answer = lambda prompt: text + "so it goes"
    for method in ("json_schema", "function_calling"):
        model = models[ChatLibertai].with_structured_output(
            Joke, method=method, tools=[tool], max_tokens=len(text)
        )
        with pytest.raises(TruncatedAnswer):
            model.invoke("x")
        with pytest.raises(TruncatedAnswer):
            [each async for each in model.astream("x")]


@both
@every_method
def test_strict_classes(
    models: dict[Any, Any], server: ScriptedServer, kind: Any, method: Any
) -> None:
    """What a strict class takes is what its JSON schema says: a text for a date."""
    answering(server, method, '{"day": "2026-11-23", "pair": [1, 2]}')
    found = models[kind].with_structured_output(Appointment, method=method).invoke("x")
    assert found == Appointment(day=date(2026, 11, 23), pair=(1, 2))


def test_options_of_the_call_go_along(models: dict[Any, Any], server: ScriptedServer) -> None:
    """Such as a temperature, given to the chain or to one call."""
    answering(server, "json_schema", TEXT)
    for model in models.values():
        model.with_structured_output(Joke, temperature=0, top_k=3).invoke("x", top_k=4)
        body = server.completions[-1]
        assert (body["temperature"], body["top_k"]) == (0, 4)


@both
@every_method
def test_repetitions_are_not_penalised_by_default(
    server: ScriptedServer, kind: Any, method: Any
) -> None:
    """What model, chain or call say is sent; without a schema, nothing."""
    answering(server, method, TEXT)
    with kind(base_url=server.url) as model, kind(base_url=server.url, repeat_penalty=1.1) as own:
        model.with_structured_output(Joke, method=method).invoke("x")
        own.with_structured_output(Joke, method=method).invoke("x")
        own.with_structured_output(Joke, method=method, repeat_penalty=1.2).invoke("x")
        model.with_structured_output(Joke, method=method).invoke("x", repeat_penalty=1.3)
        model.invoke("x", grammar='root ::= "a"')
    sent = [body.get("repeat_penalty") for body in server.completions]
    assert sent == [1.0, 1.1, 1.2, 1.3, None]


def test_a_schema_that_no_grammar_can_hold_is_named(models: dict[Any, Any]) -> None:
    """It is an error before anything is sent, never a looser grammar."""
    schema = {"title": "x", "type": "object", "properties": {"a": {"not": {"type": "null"}}}}
    for model in models.values():
        with pytest.raises(ValueError, match="properties/a"):
            model.with_structured_output(schema).invoke("x")


def test_thoughts_are_no_part_of_the_object(server: ScriptedServer) -> None:
    """A model that thinks does so first, and its object is what comes after."""
    server.answer = lambda prompt: f"<think>\nhm {{}}\n</think>\n\n{TEXT}"
    with ChatLibertai(base_url=server.url, reasoning=True) as chat:
        model = chat.with_structured_output(Joke, include_raw=True)
        found = model.invoke("x")
    assert found["parsed"] == Joke(**FOUND)
    assert found["raw"].additional_kwargs["reasoning_content"] == "hm {}"


def test_answers_of_other_models_are_read_too(server: ScriptedServer) -> None:
    """A fallback in the middle of the chain may be any model."""
    with ChatLibertai(base_url="http://127.0.0.1:9", max_retries=0) as chat:
        chain = chat.with_structured_output(Joke)
        other = FakeListLLM(responses=[TEXT]) | chain.last
        assert chain.with_fallbacks([other]).invoke("x") == Joke(**FOUND)


class Essay(BaseModel):
    """A long text."""

    text: str
    title: str


@pytest.mark.parametrize("where", ["in-process", "HTTP"])
@pytest.mark.parametrize("method", METHODS)
async def test_our_engine_ends_an_object_in_time(
    demo_engine: Engine, demo_url: str, where: str, method: Any
) -> None:
    """However long the model would go on; too few tokens for any object are the usual error."""
    target: dict[str, Any] = {"engine": demo_engine} if where != "HTTP" else {"base_url": demo_url}
    async with ChatLibertai(temperature=0, max_tokens=48, **target) as chat:
        model = chat.with_structured_output(Essay, method=method)
        found = [model.invoke("Tell me a story."), await model.ainvoke("Tell me a story.")]
        found += [list(model.stream("Tell me a story."))[-1]]
        found += [[each async for each in model.astream("Tell me a story.")][-1]]
        assert all(isinstance(each, Essay) for each in found)
        short = chat.with_structured_output(Essay, method=method, max_tokens=2)
        for ask in (lambda: short.invoke("x"), lambda: list(short.stream("x"))):
            with pytest.raises(InvalidAnswer):
                ask()
        with pytest.raises(InvalidAnswer):
            await short.ainvoke("x")
        with pytest.raises(InvalidAnswer):
            _ = [each async for each in short.astream("x")]
