"""Completions as LangChain's results: counts, reasons, probabilities, and chunks that add up."""

from __future__ import annotations

import math
from functools import reduce
from operator import add

import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import GenerationChunk

from libertai_llm.langchain.chunks import ChunkMaker
from libertai_llm.langchain.output import (
    IMPOSSIBLE,
    chat_result,
    combine_llm_outputs,
    llm_chunk,
    llm_result,
)
from libertai_llm.probs import TokenProb, TokenProbs
from libertai_llm.types import Completion, CompletionChunk, StopType, Timings

PROBS = (
    TokenProbs(
        chosen=TokenProb(token="a", piece=b"a", logprob=-0.5),
        top=(TokenProb(token="b", piece=b"b", logprob=-math.inf),),
    ),
    TokenProbs(chosen=TokenProb(token="c", piece=b"\xc3", logprob=None), top=()),
)
COMPLETION = Completion(
    content="one two",
    stop_type="word",
    stopping_word="<|im_end|>",
    slot_id=0,
    tokens_evaluated=30,
    tokens_predicted=2,
    tokens_cached=20,
    timings=Timings(prompt_n=10, predicted_ms=1.5),
    model="hermes",
    probs=PROBS,
)
CHUNKS = (
    CompletionChunk(content="one", slot_id=0, probs=PROBS[:1]),
    CompletionChunk(content=" two", slot_id=0, probs=PROBS[1:]),
    CompletionChunk(content="", slot_id=0, final=COMPLETION),
)
USAGE = {
    "input_tokens": 30,
    "output_tokens": 2,
    "total_tokens": 32,
    "input_token_details": {"cache_read": 20},
}


def test_a_message_tells_everything() -> None:
    """Text, usage with cached tokens, and the metadata other parts of LangChain look for."""
    result = chat_result(COMPLETION, "asked")
    message = result.generations[0].message
    assert message.content == "one two"
    assert message.usage_metadata == USAGE
    metadata = message.response_metadata
    assert metadata["model_name"] == "hermes"
    assert metadata["model_provider"] == "libertai"
    assert (metadata["finish_reason"], metadata["stop_reason"]) == ("stop", "stop_sequence")
    assert metadata["stopping_word"] == "<|im_end|>"
    assert metadata["slot_id"] == 0
    assert metadata["truncated"] is False
    assert metadata["timings"]["predicted_ms"] == 1.5
    assert result.llm_output is not None
    assert result.llm_output["token_usage"] == {
        "prompt_tokens": 30,
        "completion_tokens": 2,
        "total_tokens": 32,
        "cached_tokens": 20,
    }


def test_chunks_add_up_to_the_whole() -> None:
    """Streamed messages end with the same text, usage and metadata, and usage counts once."""
    maker = ChunkMaker("asked", None)
    total = reduce(add, [chunk.message for each in CHUNKS for chunk in maker.chunks(each)])
    message = chat_result(COMPLETION, "asked").generations[0].message
    assert isinstance(total, AIMessageChunk)
    assert total.content == message.content
    assert total.usage_metadata == USAGE
    assert total.response_metadata == message.response_metadata
    assert total.chunk_position == "last"


def test_text_chunks_add_up_to_the_whole() -> None:
    """The same for text completions, whose usage is in `generation_info`."""
    total = reduce(add, [llm_chunk(chunk, "asked") for chunk in CHUNKS])
    generation = llm_result([COMPLETION], "asked").generations[0][0]
    assert isinstance(total, GenerationChunk)
    assert total.text == generation.text == "one two"
    assert total.generation_info == generation.generation_info
    assert generation.generation_info is not None
    assert generation.generation_info["usage_metadata"] == USAGE


def test_probabilities_have_the_openai_shape() -> None:
    """Log probabilities, bytes, and no infinity, which JSON cannot carry."""
    logprobs = chat_result(COMPLETION, "").generations[0].message.response_metadata["logprobs"]
    top = {"token": "b", "logprob": IMPOSSIBLE, "bytes": [98]}
    assert logprobs["content"] == [
        {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [top]},
        {"token": "c", "logprob": None, "bytes": [0xC3], "top_logprobs": []},
    ]


@pytest.mark.parametrize(
    ("stop_type", "finish_reason", "stop_reason"),
    [
        ("eos", "stop", "end_turn"),
        ("word", "stop", "stop_sequence"),
        ("limit", "length", "max_tokens"),
        ("none", None, None),
    ],
)
def test_why_an_answer_ended(
    stop_type: StopType, finish_reason: str | None, stop_reason: str | None
) -> None:
    """Each reason under the names that LangChain's parsers look for; nothing invented."""
    metadata = chat_result(Completion(content="", stop_type=stop_type), "").generations[0]
    told = metadata.message.response_metadata
    assert (told.get("finish_reason"), told.get("stop_reason")) == (finish_reason, stop_reason)


def test_a_server_that_does_not_name_its_model() -> None:
    """The name that was asked for, else the provider's, so that there always is one."""
    nameless = Completion(content="x")
    assert chat_result(nameless, "asked").llm_output["model_name"] == "asked"
    assert chat_result(nameless, "").llm_output["model_name"] == "libertai"


def test_token_usage_is_summed_over_several_prompts() -> None:
    """For `generate` with many prompts, of chat and of text models."""
    one = chat_result(COMPLETION, "").llm_output
    assert combine_llm_outputs([one, None, one])["token_usage"]["total_tokens"] == 64
    assert combine_llm_outputs([]) == {}
    both = llm_result([COMPLETION, COMPLETION], "").llm_output
    assert both is not None and both["token_usage"]["cached_tokens"] == 40
