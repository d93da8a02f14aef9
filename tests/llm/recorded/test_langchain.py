"""The LangChain classes on real servers: programs with them, recorded.

In: recordings of the December-2023 server behind a sticky balancer, and of today's server.
Out: messages and texts with usage, finish reason and cache counts; sync and async alike.
"""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from libertai_llm.langchain import ChatLibertai, Libertai, LibertaiLLM
from tests.llm.recorded.driver import Driver

pytestmark = [
    pytest.mark.vcr,
    pytest.mark.block_network,
    pytest.mark.parametrize("server", ["dec2023-sticky", "today"], indirect=True),
]
OPTIONS: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "repeat_penalty": 1.0}
THREAD: dict[str, Any] = {"configurable": {"thread_id": "one"}}


async def test_chat_of_three_turns_reuses_its_cache(server: Any, style: str) -> None:
    """One thread: from the second turn on, most of the input comes from the cache."""
    async with ChatLibertai(base_url=server.url, **OPTIONS) as model:
        chat = Driver(model, server, style)
        history: list[BaseMessage] = []
        cached = []
        for question in ("Hello!", "What is a list?", "And a string?"):
            history.append(HumanMessage(question))
            answer = await chat.invoke(history, config=THREAD)
            history.append(answer)
            usage = answer.usage_metadata
            cached.append(usage["input_token_details"]["cache_read"])
            assert answer.response_metadata["finish_reason"] in ("stop", "length")
            assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert cached[0] < cached[1] < cached[2]
    assert 2 * cached[2] > usage["input_tokens"]


async def test_chat_streams_what_it_would_say(server: Any, style: str) -> None:
    """Chunks add up to the message that `invoke` gives, usage and all."""
    async with ChatLibertai(base_url=server.url, cache_prompt=False, **OPTIONS) as model:
        chat = Driver(model, server, style)
        whole: AIMessage = await chat.invoke("Hello!")
        chunks = await chat.stream("Hello!")
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert len(chunks) > 2
    assert total.content == whole.content
    assert total.usage_metadata == whole.usage_metadata
    assert total.response_metadata["finish_reason"] == whole.response_metadata["finish_reason"]


async def test_llm_completes_and_stops_at_words(server: Any, style: str) -> None:
    """The plain LLM: text in, text out, cut before the stop word."""
    options = {**OPTIONS, "ignore_eos": True, "cache_prompt": False}
    async with LibertaiLLM(base_url=server.url, **options) as model:
        llm = Driver(model, server, style)
        whole = await llm.invoke("Return the number of")
        word = whole.split()[1]
        cut = await llm.invoke("Return the number of", stop=[word])
        assert cut == whole[: whole.index(word)]
        assert "".join(await llm.stream("Return the number of")) == whole


async def test_the_page_class_runs_against_it(server: Any, style: str) -> None:
    """The seed's own class, with its own field names."""
    model = Libertai(
        api_base=server.url, temperature=0, max_length=12, cache_prompt=False, stop=["\n"]
    )
    async with model:
        answer = await Driver(model, server, style).invoke("Return the number of")
    assert answer.strip()
    assert "\n" not in answer
