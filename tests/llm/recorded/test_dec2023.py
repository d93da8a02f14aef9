"""What only the December-2023 server does, and what our client makes of it.

In: recordings of that server, plain, and on a model that has its fixed infill tokens.
Out: its answers in our terms, its quirks left where they are.
"""

from __future__ import annotations

from typing import Any

import pytest

from libertai_llm.errors import ContextWindowExceeded, ServerError

pytestmark = [pytest.mark.vcr, pytest.mark.block_network]
plain = pytest.mark.parametrize("server", ["dec2023"], indirect=True)
infill = pytest.mark.parametrize("server", ["dec2023-infill"], indirect=True)
GREEDY: dict[str, Any] = {"temperature": 0, "repeat_penalty": 1.0, "cache_prompt": False}


@plain
def test_props_say_nothing_about_the_model(caller: Any) -> None:
    """Template, context and slots are "not told", so that callers fall back to ChatML."""
    props = caller.call("props")
    assert props.raw == {"assistant_name": "", "user_name": ""}
    assert props.chat_template is props.context_size is props.total_slots is None


@plain
def test_health_of_a_server_without_that_route(caller: Any) -> None:
    """`/health` is a 404 there: the server is up, and does not know the question."""
    health = caller.call("health")
    assert health.is_ready


@plain
def test_answer_has_one_token_more_than_asked(caller: Any) -> None:
    """That server's limit is off by one, and its count does not show it: we report its count."""
    answer = caller.complete("Return the number of", max_tokens=8, **GREEDY)
    ids = caller.call("tokenize", "Return the number of" + answer.content)
    prompt = caller.call("tokenize", "Return the number of")
    assert (answer.tokens_predicted, len(ids) - len(prompt)) == (8, 9)


@plain
def test_long_prompt_that_is_cut_is_refused(caller: Any) -> None:
    """That server drops the beginning of what does not fit; its answer comes as an error."""
    with pytest.raises(ContextWindowExceeded) as caught:
        caller.complete("word " * 700, max_tokens=4, **GREEDY)
    assert caught.value.n_ctx == 512
    assert caught.value.partial_text
    with pytest.raises(ContextWindowExceeded) as caught:
        caller.stream("word " * 700, max_tokens=4, **GREEDY)
    assert caught.value.partial_text


@plain
def test_long_prompt_may_be_cut_if_the_caller_says_so(caller: Any) -> None:
    """Then a flag tells it."""
    answer = caller.complete("word " * 700, max_tokens=4, context_shift=True, **GREEDY)
    assert answer.truncated
    assert answer.tokens_evaluated < 512


@plain
def test_long_answer_that_outgrows_the_context_is_an_answer(caller: Any) -> None:
    """That server shifts the context; behind so short a prompt it cannot have cut that, too."""
    answer = caller.complete("Return the number of", max_tokens=520, **GREEDY, ignore_eos=True)
    assert answer.truncated
    assert (answer.stop_type, answer.tokens_predicted) == ("limit", 520)


@plain
def test_broken_utf8_cannot_be_detokenised(caller: Any) -> None:
    """Half a character is a 500 in plain text there; it arrives as an error with its words."""
    ids = caller.call("tokenize", "é")
    with pytest.raises(ServerError, match="UTF-8") as caught:
        caller.call("detokenize", ids[-1:])
    assert caught.value.status == 500


@infill
def test_infill_fills_the_gap(caller: Any) -> None:
    """That server wants a dummy `prompt`; the client sends it, streamed or not."""
    whole = caller.call("infill", "def f(", "):", max_tokens=6, **GREEDY)
    assert whole.content and whole.stop_type == "limit"
    chunks = caller.stream("def f(", "):", method="infill_stream", max_tokens=6, **GREEDY)
    assert "".join(chunk.content for chunk in chunks) == whole.content
    assert chunks[-1].final.tokens_evaluated == whole.tokens_evaluated
