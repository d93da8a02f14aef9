"""Group 7: structured output: objects of a class, whatever the model would rather say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llama_index.core import ChatPromptTemplate, PromptTemplate
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptType, SelectorPromptTemplate
from llama_index.core.prompts.utils import is_chat_model
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, Field, field_validator

from libertai_llm.errors import UnsupportedSchema
from libertai_llm.llama_index import InvalidAnswer, Libertai, TruncatedAnswer
from tests.llm.langchain.scripted import ScriptedServer
from tests.llm.llama_index.conftest import MakeLLM, Recorder
from tests.llm.llama_index.toolbox import Trip, Weather

PROMPT = PromptTemplate("How is the weather in {city}?")
# LlamaIndex's own wrapper calls a method of pydantic's that is going away.
CORE_USES_JSON = pytest.mark.filterwarnings("ignore:The `json` method is deprecated")
WEATHER = {"city": "Rome", "degrees": 20, "wet": False, "scale": "C"}


class Note(BaseModel):
    """A text."""

    text: str


async def predictions(llm: Any, output_cls: Any, prompt: Any = PROMPT, **options: Any) -> list[Any]:
    """The object in all four ways, and what came before it in the two streams."""
    given = {"city": "Rome", **options}
    astream = await llm.astream_structured_predict(output_cls, prompt, **given)
    return [
        [llm.structured_predict(output_cls, prompt, **given)],
        [await llm.astructured_predict(output_cls, prompt, **given)],
        list(llm.stream_structured_predict(output_cls, prompt, **given)),
        [each async for each in astream],
    ]


@pytest.mark.parametrize("output_cls", [Weather, Trip])
async def test_objects_are_of_the_class(make_llm: MakeLLM, output_cls: Any) -> None:
    """Four ways, one object: nested, with lists, enums, unions and what may be missing."""
    ways = await predictions(make_llm(max_tokens=300, cache_prompt=False), output_cls)
    assert all(isinstance(way[-1], output_cls) for way in ways)
    assert [way[-1] for way in ways] == [ways[0][-1]] * 4


async def test_streams_tell_what_there_is(make_llm: MakeLLM) -> None:
    """The object grows; nothing that was told is taken back; the last one is whole."""
    _, _, *streams = await predictions(make_llm(max_tokens=300), Weather)
    for stream in streams:
        told = [each.model_dump(exclude_unset=True) for each in stream]
        told = [{k: v for k, v in each.items() if v is not None} for each in told]
        assert len(told) > 5
        for before, after in zip(told, told[1:], strict=False):
            assert set(before) <= set(after)
        assert isinstance(stream[-1], Weather) and not isinstance(stream[0], Weather)


@pytest.mark.parametrize("method", ["complete", "stream_complete", "chat"])
def test_repetitions_are_not_penalised_by_default(server: ScriptedServer, method: str) -> None:
    """With a schema, unless model or call say another; with a grammar of one's own as it was."""
    given: Any = [ChatMessage("x")] if method == "chat" else "x"
    schema = {"json_schema": Note.model_json_schema()}
    for own, options in (({}, schema), ({"repeat_penalty": 1.1}, schema)):
        list(getattr(Libertai(base_url=server.url, **own), method)(given, **options))
    list(getattr(Libertai(base_url=server.url), method)(given, grammar='root ::= "a"'))
    list(getattr(Libertai(base_url=server.url), method)(given, repeat_penalty=1.2, **schema))
    sent = [(body.get("repeat_penalty"), "json_schema" in body) for body in server.completions]
    assert sent == [(1.0, False), (1.1, False), (None, False), (1.2, False)]
    assert len({body["grammar"] for body in server.completions}) == 2


@pytest.mark.parametrize("mode", [PydanticProgramMode.FUNCTION, PydanticProgramMode.DEFAULT])
async def test_every_mode_gives_objects(make_llm: MakeLLM, mode: PydanticProgramMode) -> None:
    """As JSON, or as the arguments of a call that LlamaIndex makes of the class."""
    llm = make_llm(max_tokens=300, pydantic_program_mode=mode, cache_prompt=False)
    ways = await predictions(llm, Weather)
    assert [way[-1] for way in ways] == [ways[0][-1]] * 4
    assert isinstance(ways[0][-1], Weather)
    assert len(ways[2]) > 5 and len(ways[3]) > 5


async def test_the_mode_that_asks_in_words_reads_the_answer(server: ScriptedServer) -> None:
    """LlamaIndex's own way, for models that cannot be held to anything: the text is parsed."""
    server.answer = lambda prompt: f"Sure! {json.dumps(WEATHER)}"
    llm = Libertai(base_url=server.url, pydantic_program_mode=PydanticProgramMode.LLM)
    assert llm.structured_predict(Weather, PROMPT, city="Rome") == Weather.model_validate(WEATHER)
    assert "grammar" not in server.completions[0]


async def test_the_system_prompt_is_kept(server: ScriptedServer) -> None:
    """In all four ways, before the question."""
    server.answer = lambda prompt: json.dumps(WEATHER)
    await predictions(Libertai(base_url=server.url, system_prompt="Be brief."), Weather)
    assert len(server.completions) == 4
    for sent in server.completions:
        assert sent["prompt"].startswith("<|im_start|>system\nBe brief.<|im_end|>")
        assert "How is the weather in Rome?" in sent["prompt"] and "degrees" in sent["grammar"]


async def test_prompts_for_chat_models_are_chosen(server: ScriptedServer) -> None:
    """A prompt of two forms takes that for chats."""
    server.answer = lambda prompt: json.dumps(WEATHER)
    chat = ChatPromptTemplate([ChatMessage("Chat about {city}.")], prompt_type=PromptType.CUSTOM)
    prompt = SelectorPromptTemplate(PROMPT, [(is_chat_model, chat)])
    await predictions(Libertai(base_url=server.url), Weather, prompt)
    assert all("Chat about Rome." in sent["prompt"] for sent in server.completions)


async def test_options_are_of_this_call(server: ScriptedServer) -> None:
    """They reach the server, and the caller's dict stays as it is."""
    server.answer = lambda prompt: json.dumps(WEATHER)
    options = {"temperature": 0.125, "tool_choice": "auto"}
    await predictions(Libertai(base_url=server.url), Weather, llm_kwargs=options)
    assert options == {"temperature": 0.125, "tool_choice": "auto"}
    assert [sent["temperature"] for sent in server.completions] == [0.125] * 4


@pytest.mark.parametrize("way", range(4))
async def test_half_an_object_is_an_error(server: ScriptedServer, way: int) -> None:
    """It says that there were too few tokens, and what was said."""
    server.answer = lambda prompt: json.dumps(WEATHER)
    llm = Libertai(base_url=server.url, max_tokens=20)
    with pytest.raises(TruncatedAnswer, match="max_tokens") as error:
        await one_of_four(llm, Weather, way)
    assert error.value.partial_text == json.dumps(WEATHER)[:20]


@pytest.mark.parametrize("way", range(4))
async def test_what_the_class_refuses_is_an_error(server: ScriptedServer, way: int) -> None:
    """A validator of the class says no, which no grammar can know."""

    class Even(BaseModel):
        number: int

        @field_validator("number")
        @classmethod
        def check(cls, number: int) -> int:
            assert number % 2 == 0, "odd"
            return number

    server.answer = lambda prompt: '{"number": 3}'
    with pytest.raises(InvalidAnswer, match="odd") as error:
        await one_of_four(Libertai(base_url=server.url), Even, way)
    assert not isinstance(error.value, TruncatedAnswer)
    assert error.value.partial_text == '{"number": 3}'


async def one_of_four(llm: Libertai, output_cls: Any, way: int) -> None:
    """One of the four ways, to its end."""
    if way == 0:
        llm.structured_predict(output_cls, PROMPT, city="Rome")
    elif way == 1:
        await llm.astructured_predict(output_cls, PROMPT, city="Rome")
    elif way == 2:
        list(llm.stream_structured_predict(output_cls, PROMPT, city="Rome"))
    else:
        stream = await llm.astream_structured_predict(output_cls, PROMPT, city="Rome")
        assert [each async for each in stream]


def test_our_engine_ends_an_object_in_time(make_llm: MakeLLM) -> None:
    """With few tokens left it closes what it has begun, so that there is an object."""
    note = make_llm(max_tokens=24).structured_predict(Note, PROMPT, city="Rome")
    assert isinstance(note, Note)


def test_a_class_without_a_grammar_is_refused(server: ScriptedServer) -> None:
    """By the place in its schema; nothing is sent."""

    class Odd(BaseModel):
        text: str = Field(json_schema_extra={"not": {"const": "a"}})

    with pytest.raises(UnsupportedSchema, match="not"):
        Libertai(base_url=server.url).structured_predict(Odd, PROMPT, city="Rome")
    assert not server.completions


@CORE_USES_JSON
def test_a_structured_llm_answers_with_objects(make_llm: MakeLLM) -> None:
    """`as_structured_llm`: chat, complete and stream, as query engines use it."""
    llm = make_llm(max_tokens=300)
    structured = llm.as_structured_llm(Weather)
    question = [ChatMessage("How is the weather in Rome?")]
    response = structured.chat(question)
    assert isinstance(response.raw, Weather)
    assert Weather.model_validate_json(response.message.content or "") == response.raw
    assert isinstance(structured.complete("How is the weather?").raw, Weather)
    streamed = list(structured.stream_chat(question))
    assert streamed[-1].raw == response.raw and len(streamed) > 3


@CORE_USES_JSON
async def test_a_structured_llm_does_not_block(make_llm: MakeLLM) -> None:
    """The same, awaited."""
    structured = make_llm(max_tokens=300).as_structured_llm(Weather)
    question = [ChatMessage("How is the weather in Rome?")]
    response = await structured.achat(question)
    streamed = [each async for each in await structured.astream_chat(question)]
    assert isinstance(response.raw, Weather) and streamed[-1].raw == response.raw


@CORE_USES_JSON
async def test_braces_in_messages_are_text(server: ScriptedServer) -> None:
    """What is said to a structured model is no template."""
    server.answer = lambda prompt: json.dumps(WEATHER)
    structured = Libertai(base_url=server.url).as_structured_llm(Weather)
    structured.chat([ChatMessage('Is {"a": {b}} weather?')])
    assert 'Is {"a": {b}} weather?' in server.completions[0]["prompt"]


async def test_events_tell_of_the_object(make_llm: MakeLLM, recorder: Recorder) -> None:
    """One start and one end for each of the four ways, with one chat inside."""
    await predictions(make_llm(max_tokens=300), Weather)
    names = recorder.names()
    assert names.count("LLMStructuredPredictStartEvent") == 4
    assert names.count("LLMStructuredPredictEndEvent") == 4
    assert names.count("LLMChatStartEvent") == names.count("LLMChatEndEvent") == 4
    ends = [e for e in recorder.events if type(e).__name__ == "LLMStructuredPredictEndEvent"]
    assert all(isinstance(each.output, Weather) for each in ends)
