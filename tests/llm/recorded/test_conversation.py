"""Conversations on real servers: the slot is sent back, the cookie kept, the cache reused.

In: three turns, recorded from single servers and through a sticky HAProxy before two of them.
Out: only what is new is evaluated, and one conversation never leaves its node. A turn whose slot
or cookie is not sent back finds no recording.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from libertai_llm import Completion, Session

TURNS = ("The following exceptions", " If the argument is", " This module provides")
GREEDY: dict[str, Any] = {"max_tokens": 8, "temperature": 0, "repeat_penalty": 1.0}
pytestmark = [pytest.mark.vcr, pytest.mark.block_network]
every = pytest.mark.parametrize(
    "server", ["dec2023", "dec2023-sticky", "today", "today-sticky"], indirect=True
)
sticky = pytest.mark.parametrize("server", ["dec2023-sticky", "today-sticky"], indirect=True)


def turns(caller: Any, session: Session, *, form: str = "whole") -> list[Completion]:
    """Three turns, each prompt the whole text so far."""
    text, answers = "", []
    for turn in TURNS:
        text += turn
        if form == "stream":
            answer = caller.stream(text, session=session, **GREEDY)[-1].final
        else:
            answer = caller.complete(text, session=session, **GREEDY)
        text += answer.content
        answers.append(answer)
    return answers


def asked(vcr: Any) -> list[dict[str, Any]]:
    """The bodies that the server was sent, in order."""
    return [json.loads(request.body) for request in vcr.requests]


@every
@pytest.mark.parametrize("form", ["whole", "stream"])
def test_later_turns_evaluate_only_what_is_new(caller: Any, vcr: Any, form: str) -> None:
    """Turns two and three reuse all of the turn before; the slot of turn one is asked for."""
    first, second, third = turns(caller, Session(), form=form)
    for before, answer in ((first, second), (second, third)):
        assert answer.slot_id == first.slot_id
        # The last token of an answer may be joined differently to the text that follows it.
        held = before.tokens_evaluated + before.tokens_predicted
        assert held - 2 <= answer.tokens_cached < answer.tokens_evaluated
        assert answer.timings.prompt_n == answer.tokens_evaluated - answer.tokens_cached
    assert [body["slot_id"] for body in asked(vcr)] == [-1, first.slot_id, first.slot_id]


@sticky
def test_two_conversations_stay_on_their_nodes(caller: Any, vcr: Any) -> None:
    """Interleaved, through a balancer that alternates, each keeps its cookie and its cache."""
    one, two = Session(), Session()
    texts = {id(one): "The following exceptions", id(two): "If the argument is not"}
    cached: dict[int, list[int]] = {id(one): [], id(two): []}
    for session in (one, two, one, two, two, one):
        answer = caller.complete(texts[id(session)], session=session, **GREEDY)
        texts[id(session)] += answer.content + " and"
        cached[id(session)].append(answer.tokens_cached)
    nodes = [{cookie.value for cookie in session.cookies} for session in (one, two)]
    assert all(len(node) == 1 for node in nodes)
    assert nodes[0] != nodes[1]
    for counts in cached.values():
        assert counts[0] < counts[1] < counts[2]
    sent = [request.headers.get("cookie") for request in vcr.requests]
    assert sent[:2] == [None, None]
    assert sent[2] == sent[5] != sent[3] == sent[4]


@sticky
def test_without_the_cookie_the_cache_is_on_the_other_node(caller: Any) -> None:
    """The control: forgetting the server between two turns makes the second evaluate it all."""
    session = Session()
    prompt = "When this happens, no node but one knows these words"
    first = caller.complete(prompt, session=session, **GREEDY)
    session.forget_server()
    second = caller.complete(prompt + first.content, session=session, **GREEDY)
    # NOTE: today's server has BOS in every slot, so one token may be found anywhere.
    assert second.tokens_cached <= 1 < second.timings.prompt_n
