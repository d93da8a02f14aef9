"""Prompts that do not fit: found out where a server cuts them in silence."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libertai_engine.wire.prompts import MIN_FREE, fit_prompt
from libertai_llm.context import refuse_cut_prompt
from libertai_llm.errors import ContextWindowExceeded
from libertai_llm.session import Session
from libertai_llm.types import Completion
from tests.llm.conftest import MakeClient, Serve
from tests.llm.scripted_server import final, said, stream, whole

CUT = final(
    "about the rest",
    stopped_eos=False,
    stopped_limit=True,
    truncated=True,
    tokens_evaluated=400,
    tokens_predicted=8,
    generation_settings={"n_ctx": 512},
)


def completion(stop_type: Any = "limit", n_ctx: int | None = 512, **facts: Any) -> Completion:
    settings = {} if n_ctx is None else {"n_ctx": n_ctx}
    facts = {"truncated": True, "generation_settings": settings, **facts}
    return Completion(content="so far", stop_type=stop_type, **facts)


@pytest.mark.parametrize(
    ("max_tokens", "facts"),
    [
        (8, {"truncated": False, "tokens_evaluated": 504, "tokens_predicted": 8}),
        (None, {"tokens_evaluated": 500, "tokens_predicted": 12}),
        (-1, {"tokens_evaluated": 500, "tokens_predicted": 12}),
        (100, {"tokens_evaluated": 500, "tokens_predicted": 12}),
        (None, {"tokens_evaluated": 500, "tokens_predicted": 12, "n_ctx": None}),
        (600, {"tokens_evaluated": 255, "tokens_predicted": 600}),
        (600, {"tokens_evaluated": 9, "tokens_predicted": 600, "stop_type": "eos"}),
    ],
    ids=["whole", "ended", "ended, -1", "ended early", "n_ctx not told", "shifted", "shifted, eos"],
)
def test_what_lost_nothing_of_its_prompt(max_tokens: int | None, facts: dict[str, Any]) -> None:
    """An answer that ended with the context, or outgrew it behind a short prompt, is an answer."""
    refuse_cut_prompt(completion(**facts), max_tokens)


@pytest.mark.parametrize(
    ("max_tokens", "facts"),
    [
        (8, {"tokens_evaluated": 400, "tokens_predicted": 8}),
        (8, {"tokens_evaluated": 504, "tokens_predicted": 8}),
        (None, {"tokens_evaluated": 400, "tokens_predicted": 8, "stop_type": "eos"}),
        (None, {"tokens_evaluated": 256, "tokens_predicted": 600, "stop_type": "word"}),
        (8, {"tokens_evaluated": 400, "tokens_predicted": 8, "n_ctx": None}),
    ],
    ids=["cut", "cut, and full by chance", "cut, eos", "cut or shifted", "n_ctx not told"],
)
def test_what_may_have_lost_some(max_tokens: int | None, facts: dict[str, Any]) -> None:
    """Where a cut cannot be ruled out the answer is not passed off as one to the whole prompt."""
    with pytest.raises(ContextWindowExceeded, match="context_shift=True") as caught:
        refuse_cut_prompt(completion(**facts), max_tokens)
    assert (caught.value.n_ctx, caught.value.n_prompt_tokens) == (facts.get("n_ctx", 512), None)
    assert (caught.value.partial_text, caught.value.has_begun) == ("so far", True)


@given(
    n_ctx=st.integers(8, 600),
    n_keep=st.integers(-1, 700),
    excess=st.integers(0, 900),
    max_tokens=st.integers(1, 40),
)
def test_every_cut_is_found(n_ctx: int, n_keep: int, excess: int, max_tokens: int) -> None:
    """Whatever the sizes, a prompt cut as the server of 2023 did is noticed."""
    prompt = list(itertools.repeat(7, n_ctx + excess))
    cut = fit_prompt(prompt, min(n_keep, n_ctx - MIN_FREE), n_ctx, bos_id=None)
    answer = completion(
        n_ctx=n_ctx, tokens_evaluated=len(cut.token_ids), tokens_predicted=max_tokens
    )
    if cut.is_cut:
        with pytest.raises(ContextWindowExceeded):
            refuse_cut_prompt(answer, max_tokens)


@pytest.mark.parametrize("form", ["whole", "stream"])
def test_a_silent_cut_is_an_error(any_client: MakeClient, serve: Serve, form: str) -> None:
    """The error has the text; the call is not repeated, the session learns no text."""
    last = CUT if form == "whole" else CUT | {"content": ""}
    server = serve(
        lambda asked: [whole(last) if form == "whole" else stream(said("about the rest"), last)]
    )
    client, session, got = any_client(server.url), Session(), []
    with pytest.raises(ContextWindowExceeded) as caught:
        if form == "whole":
            client.complete("x", session=session, max_tokens=8)
        for chunk in client.stream("x", session=session, max_tokens=8):
            got.append(chunk.content)
    assert (caught.value.n_ctx, caught.value.partial_text) == (512, "about the rest")
    assert got == ([] if form == "whole" else ["about the rest"])
    assert len(server.asked) == 1 and server.bodies[0]["context_shift"] is False
    assert session.text == ""


@pytest.mark.parametrize("allowed", [True, None])
def test_who_allows_a_cut_gets_it(
    any_client: MakeClient, serve: Serve, allowed: bool | None
) -> None:
    """Asked for, or left to the server: then `truncated` says what happened."""
    server = serve(lambda asked: [whole(CUT)])
    answer = any_client(server.url).complete("x", max_tokens=8, context_shift=allowed)
    assert answer.truncated and answer.content == "about the rest"
    assert server.bodies[0].get("context_shift") is allowed


def test_infill_leaves_out_what_does_not_fit(any_client: MakeClient, serve: Serve) -> None:
    """There `truncated` is what was documented to happen."""
    server = serve(lambda asked: [whole(CUT)])
    assert any_client(server.url).infill("a", "b", max_tokens=8).truncated
