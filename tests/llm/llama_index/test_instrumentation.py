"""Group 4: callbacks, events and token counts: each call is told once, and rightly."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.callbacks import (
    CallbackManager,
    CBEventType,
    EventPayload,
    LlamaDebugHandler,
    TokenCountingHandler,
)
from llama_index.core.llms import ChatMessage

from libertai_llm.errors import APIError
from libertai_llm.llama_index import Libertai
from tests.llm.langchain.scripted import RefusedError, ScriptedServer
from tests.llm.llama_index.conftest import MakeLLM, Recorder

METHODS = (
    "chat",
    "stream_chat",
    "achat",
    "astream_chat",
    "complete",
    "stream_complete",
    "acomplete",
    "astream_complete",
)


class Limiter:
    """Counts how often leave to call is asked for."""

    def __init__(self) -> None:
        self.count = 0

    def acquire(self) -> None:
        self.count += 1

    async def async_acquire(self) -> None:
        self.count += 1


async def call(llm: Any, method: str) -> Any:
    """A method by its name, to its end; the last response."""
    given: Any = "Hello!" if "complete" in method else [ChatMessage("Hello!")]
    result = getattr(llm, method)(given)
    result = await result if method.startswith("a") else result
    if method.startswith("a") and "stream" in method:
        return [each async for each in result][-1]
    return list(result)[-1] if "stream" in method else result


@pytest.mark.parametrize("method", METHODS)
async def test_one_call_is_one_event(make_llm: MakeLLM, recorder: Recorder, method: str) -> None:
    """For callbacks, for instrumentation, and for a rate limiter."""
    debug = LlamaDebugHandler(print_trace_on_end=False)
    llm = make_llm()
    llm.callback_manager = CallbackManager([debug])
    llm.rate_limiter = Limiter()
    await call(llm, method)
    kind = "LLMCompletion" if "complete" in method else "LLMChat"
    names = recorder.names()
    assert names.count(f"{kind}StartEvent") == names.count(f"{kind}EndEvent") == 1
    assert names.count(f"{kind}InProgressEvent") == 0 or "stream" in method
    assert len(debug.get_event_pairs(CBEventType.LLM)) == 1
    assert llm.rate_limiter.count == 1


@pytest.mark.parametrize("method", METHODS)
async def test_tokens_are_counted_as_the_model_counts(make_llm: MakeLLM, method: str) -> None:
    """The handler of LlamaIndex finds the true numbers, in streams too."""
    counter = TokenCountingHandler(tokenizer=str.split)
    llm = make_llm(cache_prompt=False)
    llm.callback_manager = CallbackManager([counter])
    response = await call(llm, method)
    usage = response.raw["usage"]
    assert counter.prompt_llm_token_count == usage["prompt_tokens"]
    assert counter.completion_llm_token_count == usage["completion_tokens"]
    assert counter.total_llm_token_count == usage["total_tokens"]


@pytest.mark.parametrize("method", METHODS)
async def test_a_failed_call_ends_its_event(server: ScriptedServer, method: str) -> None:
    """With the error, so that traces do not hang."""

    def refuse(prompt: str) -> str:
        raise RefusedError("out of paper")

    server.answer = refuse
    debug = LlamaDebugHandler(print_trace_on_end=False)
    llm = Libertai(base_url=server.url, max_retries=0, callback_manager=CallbackManager([debug]))
    with pytest.raises(APIError):
        await call(llm, method)
    ((_, end),) = debug.get_event_pairs(CBEventType.LLM)
    assert isinstance(end.payload[EventPayload.EXCEPTION], APIError)


def test_events_hold_no_secret(server: ScriptedServer, recorder: Recorder) -> None:
    """Neither key nor headers, wherever one looks."""
    secret = "sk-do-not-tell"
    debug = LlamaDebugHandler(print_trace_on_end=False)
    llm = Libertai(
        base_url=server.url.replace("//", f"//user:{secret}@"),
        default_headers={"X-Token": secret},
        callback_manager=CallbackManager([debug]),
    )
    llm.chat([ChatMessage("Hello!")])
    llm = Libertai(base_url=server.url, api_key=secret, callback_manager=CallbackManager([debug]))
    llm.chat([ChatMessage("Hello!")])
    assert {"authorization"} <= set(server.seen[-1].headers)
    told = [event.model_dump() for event in recorder.events]
    assert len(told) >= 4 and secret not in str(told)
    assert secret not in str([event.payload for event in debug.get_events()])


def test_events_show_the_messages_as_they_were(make_llm: MakeLLM, recorder: Recorder) -> None:
    """Messages are read, never written to; the end has the response."""
    messages = [ChatMessage("Hello!", additional_kwargs={"note": [1]})]
    before = [each.model_copy(deep=True) for each in messages]
    response = make_llm().chat(messages)
    assert messages == before
    end = next(event for event in recorder.events if type(event).__name__ == "LLMChatEndEvent")
    assert end.messages == before and end.response == response
