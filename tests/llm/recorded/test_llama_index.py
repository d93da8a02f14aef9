"""The LlamaIndex class on real servers, recorded: chats, tool calls and objects.

In: recordings of the December-2023 server behind a sticky balancer, and of today's server.
Out: responses with usage and cache counts, calls and objects that a grammar held to their form;
sync and async alike.
"""

from __future__ import annotations

from typing import Any, Literal

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.base.llms.types import ChatResponse
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import call_tool_with_selection
from pydantic import BaseModel

from libertai_llm.llama_index import Libertai
from tests.llm.llama_index.toolbox import ADD

pytestmark = [
    pytest.mark.vcr,
    pytest.mark.block_network,
    pytest.mark.parametrize("server", ["dec2023-sticky", "today"], indirect=True),
]
OPTIONS: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "repeat_penalty": 1.0}


class Verdict(BaseModel):
    """What is said of a number."""

    parity: Literal["even", "odd"]
    is_large: bool
    digit: Literal[0, 1, 2, 3] | None


class Driver:
    """A model, called one way. Invariant: it waits before each call."""

    def __init__(self, server: Any, style: str, **options: Any) -> None:
        self.server, self.style = server, style
        callbacks = CallbackManager([])
        self.llm = Libertai(
            base_url=server.url, callback_manager=callbacks, **{**OPTIONS, **options}
        )

    async def call(self, method: str, *args: Any, **options: Any) -> Any:
        """A method by its blocking name."""
        self.server.settle()
        if self.style == "sync":
            return getattr(self.llm, method)(*args, **options)
        return await getattr(self.llm, f"a{method}")(*args, **options)

    async def stream(self, method: str, *args: Any, **options: Any) -> list[Any]:
        """A streaming method by its blocking name, to its end."""
        found = await self.call(method, *args, **options)
        return list(found) if self.style == "sync" else [each async for each in found]

    async def close(self) -> None:
        await self.llm.aclose()


async def test_chat_of_three_turns_reuses_its_cache(server: Any, style: str) -> None:
    """Recognised by what was said: from the second turn on most of the prompt is in the cache."""
    driver, history, cached = Driver(server, style), [], []
    for question in ("Hello!", "What is a list?", "And a string?"):
        history.append(ChatMessage(question))
        response: ChatResponse = await driver.call("chat", history)
        history.append(response.message)
        usage = response.raw["usage"]
        cached.append(usage["prompt_tokens_details"]["cached_tokens"])
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert response.message.additional_kwargs == {}
    await driver.close()
    assert cached[0] < cached[1] < cached[2]
    assert 2 * cached[2] > usage["prompt_tokens"]


async def test_chat_streams_what_it_would_say(server: Any, style: str) -> None:
    """Deltas add up to the text of the whole answer; the last chunk has its usage."""
    driver = Driver(server, style, cache_prompt=False)
    whole = await driver.call("chat", [ChatMessage("Hello!")])
    chunks = await driver.stream("stream_chat", [ChatMessage("Hello!")])
    await driver.close()
    assert len(chunks) > 2
    assert "".join(each.delta for each in chunks) == whole.message.content
    assert chunks[-1].message == whole.message
    assert chunks[-1].raw["usage"] == whole.raw["usage"]


async def test_completions_agree(server: Any, style: str) -> None:
    """Text in, text out, whole and streamed."""
    driver = Driver(server, style, cache_prompt=False, ignore_eos=True)
    whole = await driver.call("complete", "Return the number of")
    chunks = await driver.stream("stream_complete", "Return the number of")
    await driver.close()
    assert whole.text and "".join(each.delta for each in chunks) == chunks[-1].text == whole.text


async def test_a_tool_is_called(server: Any, style: str) -> None:
    """By a grammar that this server reads: whole and streamed, with fitting arguments."""
    driver = Driver(server, style, max_tokens=64, cache_prompt=False, repeat_penalty=None)
    given = {"tools": [ADD], "user_msg": "What is 3 plus 4?", "tool_required": True}
    response = await driver.call("chat_with_tools", **given)
    chunks = await driver.stream("stream_chat_with_tools", **given)
    await driver.close()
    for each in (response, chunks[-1]):
        (call,) = driver.llm.get_tool_calls_from_response(each)
        assert not call_tool_with_selection(call, [ADD]).is_error
        assert not each.message.content
    assert not any(each.delta for each in chunks)


async def test_an_answer_is_an_object(server: Any, style: str) -> None:
    """Of the class, whatever the model would rather say."""
    driver = Driver(server, style, max_tokens=64, cache_prompt=False, repeat_penalty=None)
    prompt = PromptTemplate("What is {number}?")
    found = await driver.call("structured_predict", Verdict, prompt, number=7)
    parts = await driver.stream("stream_structured_predict", Verdict, prompt, number=7)
    await driver.close()
    assert isinstance(found, Verdict) and parts[-1] == found
