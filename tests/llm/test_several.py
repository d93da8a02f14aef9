"""Several prompts at once: what servers answer, and which have to be asked one by one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from libertai_llm.errors import AuthenticationError, BadRequest, InvalidReply, TimedOut
from libertai_llm.several import groups_of, read_several
from tests.llm.conftest import MakeClient, Serve
from tests.llm.scripted_server import Asked, ScriptedServer, Verb, final, whole

PROMPTS = ["a", "b", "c"]


def answer(prompt: str, **more: Any) -> dict[str, Any]:
    return final(prompt.upper(), prompt=prompt, **more)


def test_groups() -> None:
    """Texts together, at most 32; a prompt with ids by itself; the order is kept."""
    assert list(groups_of(["a", "b", [1, "x"], "c", ["y"]])) == [
        ["a", "b"], [[1, "x"]], ["c"], [["y"]],
    ]  # fmt: skip
    assert [len(group) for group in groups_of(["x"] * 70)] == [32, 32, 6]
    assert list(groups_of(iter("ab"))) == [["a", "b"]]


def test_an_array_of_answers() -> None:
    """In the order of the prompts, one each."""
    found = read_several([answer(each) for each in PROMPTS], PROMPTS)
    assert [each.content for each in found] == ["A", "B", "C"]
    for bad in ([answer("a")], [], answer("abc"), ["results", [answer("a")]], [1, 2, 3]):
        with pytest.raises(InvalidReply):
            read_several(bad, PROMPTS)


def script(build: str | None) -> Any:
    """A server that tells its build, or does not, and answers whatever it is asked."""

    def play(asked: Asked) -> list[bytes]:
        if asked.path == "/props":
            return [whole({"build_info": build} if build else {"assistant_name": ""})]
        prompt = asked.json["prompt"]
        if isinstance(prompt, list):
            return [whole([answer(each) for each in prompt])]
        return [whole(answer(prompt))]

    return play


def prompts_of(server: ScriptedServer) -> list[Any]:
    return [asked.json["prompt"] for asked in server.asked if asked.method == "POST"]


def test_one_request_where_that_is_safe(any_client: MakeClient, serve: Serve) -> None:
    """A server that tells its build gets all texts together; a single prompt goes as it is."""
    server = serve(script("b1"))
    client = any_client(server.url)
    assert [each.content for each in client.complete_many(iter(PROMPTS), seed=5)] == ["A", "B", "C"]
    assert [each.content for each in client.complete_many(["a"], seed=5)] == ["A"]
    assert prompts_of(server) == [PROMPTS, "a"]
    posted = [asked.json for asked in server.asked if asked.method == "POST"]
    assert {body["seed"] for body in posted} == {5}
    assert not any("slot_id" in body for body in posted)


def test_a_server_of_2023_is_asked_one_by_one(any_client: MakeClient, serve: Serve) -> None:
    """An array may stop that server for good, so it never gets one."""
    server = serve(script(None))
    found = any_client(server.url).complete_many(PROMPTS)
    assert [each.content for each in found] == ["A", "B", "C"]
    assert prompts_of(server) == PROMPTS


@pytest.mark.parametrize("status", [403, 404, 501])
def test_a_server_that_keeps_its_props_is_asked_one_by_one(
    any_client: MakeClient, serve: Serve, status: int
) -> None:
    """It could be any."""
    tell = script("b1")
    server = serve(
        lambda asked: [whole({"error": "no"}, status)] if asked.path == "/props" else tell(asked)
    )
    assert len(any_client(server.url).complete_many(PROMPTS)) == 3
    assert prompts_of(server) == PROMPTS


def test_asking_for_the_props_has_the_limits_of_the_call(
    any_client: MakeClient, serve: Serve
) -> None:
    """A server that keeps its props to itself in silence is not waited for longer."""
    server = serve(lambda asked: [Verb.AWAIT_HANGUP])
    begun = time.monotonic()
    with pytest.raises(TimedOut):
        any_client(server.url).complete_many(PROMPTS, timeouts=0.4)
    assert time.monotonic() - begun < 3 and server.hung_up.wait(5)


def test_errors_are_raised(any_client: MakeClient, serve: Serve) -> None:
    """Whichever request brings them."""
    for status, kind in ((401, AuthenticationError), (400, BadRequest)):
        server = serve(lambda asked, status=status: [whole({"error": "no"}, status)])  # type: ignore[misc]
        with pytest.raises(kind):
            any_client(server.url).complete_many(PROMPTS)
