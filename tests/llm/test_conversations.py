"""Cookies, slots and secrets on the wire: what goes to whom, blocking and asynchronous alike."""

from __future__ import annotations

import asyncio
import copy
import logging
import multiprocessing
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import requests

from libertai_llm import AsyncClient, Client, Session, SessionStore, errors
from tests.llm.conftest import MakeClient, Serve
from tests.llm.scripted_server import (
    STREAM_END,
    Asked,
    Step,
    Verb,
    event,
    final,
    said,
    stream,
    stream_head,
    whole,
)

KEY = "sk-very-secret"


def slots_of(bodies: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
    return [(body.get("slot_id"), body.get("id_slot")) for body in bodies]


@pytest.mark.parametrize("name", ["slot_id", "id_slot"])
@pytest.mark.parametrize("slot", [0, 3])
def test_the_slot_is_sent_back(any_client: MakeClient, serve: Serve, name: str, slot: int) -> None:
    """A conversation starts with -1 and then asks for the slot it was told, 0 included."""
    told = {"content": "a", "stop": True, name: slot}
    server = serve(lambda asked: [stream(told) if asked.json["stream"] else whole(told)])
    session = Session()
    client = any_client(server.url)
    client.complete("x", session=session)
    list(client.stream("y", session=session))
    client.complete("z", session=session)
    assert slots_of(server.bodies) == [(-1, -1), (slot, slot), (slot, slot)]
    assert all(body["cache_prompt"] is True for body in server.bodies)


def test_an_answer_that_is_broken_off_tells_its_slot_too(
    any_client: MakeClient, serve: Serve
) -> None:
    """The next turn goes to the slot that holds what was evaluated."""
    server = serve(lambda asked: [stream(said("a", slot_id=2), said("b", slot_id=2), final("c"))])
    session, client = Session(), any_client(server.url)
    for _ in range(2):
        chunks = client.stream("x", session=session)
        next(chunks)
        chunks.close()
    assert slots_of(server.bodies) == [(-1, -1), (2, 2)]


def test_without_a_session_no_slot_is_sent(any_client: MakeClient, serve: Serve) -> None:
    """Calls that belong to no conversation ask for no slot, unless the caller does."""
    server = serve(lambda asked: [whole(final(slot_id=2))])
    client = any_client(server.url)
    client.complete("x")
    client.complete("x", slot_id=1)
    assert slots_of(server.bodies) == [(None, None), (1, 1)]


def test_a_chosen_slot_wins(any_client: MakeClient, serve: Serve) -> None:
    """A slot given as an option is sent as it is, and not learned by the session."""
    server = serve(lambda asked: [whole(final(slot_id=asked.json["slot_id"]))])
    session = Session()
    client = any_client(server.url)
    client.complete("x", session=session, id_slot=7)
    client.complete("x", session=session)
    assert [body["slot_id"] for body in server.bodies] == [7, -1]


def test_an_answer_without_a_slot_keeps_the_slot(any_client: MakeClient, serve: Serve) -> None:
    """Not told is not -1."""
    told = [final(slot_id=4), {"content": "", "stop": True}, final(slot_id=4)]
    server = serve(lambda asked: [whole(told[asked.number])])
    session = Session()
    client = any_client(server.url)
    for _ in told:
        client.complete("x", session=session)
    assert [body["slot_id"] for body in server.bodies] == [-1, 4, 4]


def test_a_changed_sticky_cookie_drops_the_slot(any_client: MakeClient, serve: Serve) -> None:
    """Another machine answered: its slot is taken if it tells one, else the slot is unknown."""

    def script(asked: Asked) -> Iterator[Step]:
        node, reply = [("a", final(slot_id=5)), ("b", {"content": "", "stop": True})][
            min(asked.number, 1)
        ]
        yield whole(reply, headers=[("Set-Cookie", f"node={node}; Path=/")])

    server = serve(script)
    session = Session()
    client = any_client(server.url)
    for _ in range(3):
        client.complete("x", session=session)
    assert [body["slot_id"] for body in server.bodies] == [-1, 5, -1]
    assert [asked.headers.get("cookie") for asked in server.asked] == [None, "node=a", "node=b"]


def test_another_server_drops_the_slot(any_client: MakeClient, serve: Serve) -> None:
    """A session that moves to another client's server starts there with -1."""
    servers = [serve(lambda asked: [whole(final(slot_id=5))]) for _ in range(2)]
    session = Session()
    for server in servers:
        any_client(server.url).complete("x", session=session)
    assert [server.bodies[0]["slot_id"] for server in servers] == [-1, -1]


def test_a_slot_that_no_longer_exists(any_client: MakeClient, serve: Serve) -> None:
    """A restarted server with fewer slots refuses the old one: asked once more for any."""

    def script(asked: Asked) -> Iterator[Step]:
        if asked.number == 1:
            message = "`slot_id` must be an integer between -1 and 3"
            yield whole({"error": {"code": 400, "message": message}}, 400)
        else:
            yield whole(final("ok", slot_id=9 if asked.number == 0 else 1))

    server = serve(script)
    session = Session()
    client = any_client(server.url, max_retries=0)
    client.complete("x", session=session)
    assert client.complete("y", session=session).content == "ok"
    assert [body["slot_id"] for body in server.bodies] == [-1, 9, -1]
    assert session.slot_id == 1


def test_conversations_do_not_share_cookies(any_client: MakeClient, serve: Serve) -> None:
    """Each session sends back its own cookie only, over one shared connection."""

    def script(asked: Asked) -> Iterator[Step]:
        yield whole(final(), headers=[("Set-Cookie", f"id={asked.json['prompt']}; Path=/")])

    server = serve(script)
    client = any_client(server.url)
    alice, bob = Session(), Session()
    for name, session in [("alice", alice), ("bob", bob), ("alice", alice), ("bob", bob)]:
        client.complete(name, session=session)
    client.complete("nobody")
    cookies = [asked.headers.get("cookie") for asked in server.asked]
    assert cookies == [None, None, "id=alice", "id=bob", None]
    assert server.num_connections == 1


def test_calls_without_a_session_keep_cookies(any_client: MakeClient, serve: Serve) -> None:
    """The default conversation stays on its machine."""
    server = serve(lambda asked: [whole(final(), headers=[("Set-Cookie", "n=1")])])
    client = any_client(server.url)
    client.complete("x")
    client.complete("x")
    assert server.asked[1].headers["cookie"] == "n=1"


def test_cookies_that_must_not_be_kept(any_client: MakeClient, serve: Serve) -> None:
    """Of another domain, expired, oversized, or in no plain text: not sent back."""
    bad = ["a=1; Domain=example.com", "b=1; Max-Age=0", "c=" + "x" * 5000, "d=1; Path=/other"]
    headers = [("Set-Cookie", each) for each in [*bad, "e=\xff", "good=1"]]
    server = serve(lambda asked: [whole(final(), headers=headers)])
    client = any_client(server.url)
    session = Session()
    client.complete("x", session=session)
    client.complete("x", session=session)
    assert server.asked[1].headers["cookie"] == "good=1"


def test_a_conversation_moves_between_both_clients(serve: Serve) -> None:
    """Cookies and slot of a session serve the blocking and the asynchronous client alike."""
    headers = [("Set-Cookie", "node=a")]
    server = serve(lambda asked: [whole(final(slot_id=6), headers=headers)])
    session = Session()
    with Client(server.url) as client:
        client.complete("x", session=session)

    async def ask() -> None:
        async with AsyncClient(server.url) as client:
            await client.complete("x", session=session)

    asyncio.run(ask())
    assert server.asked[1].headers["cookie"] == "node=a" and server.bodies[1]["slot_id"] == 6


def test_a_failing_machine_is_not_left(any_client: MakeClient, serve: Serve) -> None:
    """A 500 is the machine's own: the conversation's context is still there."""
    replies = [whole(final(slot_id=2), headers=[("Set-Cookie", "node=a")]), whole({}, 500)]
    server = serve(lambda asked: [replies[min(asked.number, 1)]])
    session = Session()
    client = any_client(server.url, max_retries=1)
    client.complete("x", session=session)
    with pytest.raises(errors.ServerError):
        client.complete("y", session=session)
    assert [body["slot_id"] for body in server.bodies] == [-1, 2, 2]
    assert server.asked[2].headers["cookie"] == "node=a"


def test_a_dead_machine_is_left(any_client: MakeClient, serve: Serve) -> None:
    """A gateway keeps sending the sticky cookie's machine's 503: the last attempt goes without."""

    def script(asked: Asked) -> Iterator[Step]:
        if asked.headers.get("cookie") == "node=a" and asked.number > 0:
            yield whole(b"no server is available", 503, content_type="text/html")
        else:
            node, slot = ("a", 2) if asked.number == 0 else ("b", 0)
            yield whole(final("ok", slot_id=slot), headers=[("Set-Cookie", f"node={node}")])

    server = serve(script)
    session = Session()
    client = any_client(server.url, max_retries=1)
    client.complete("x", session=session)
    assert client.complete("y", session=session).content == "ok"
    assert [body["slot_id"] for body in server.bodies] == [-1, 2, -1]
    assert server.asked[2].headers.get("cookie") is None
    client.complete("z", session=session)
    assert server.asked[3].headers["cookie"] == "node=b" and server.bodies[3]["slot_id"] == 0


def test_calls_without_a_session_leave_a_dead_machine_too(
    any_client: MakeClient, serve: Serve
) -> None:
    """Our own jar gives up the cookie of a machine that is gone."""

    def script(asked: Asked) -> Iterator[Step]:
        if "cookie" in asked.headers:
            yield whole({}, 503)
        else:
            yield whole(final("ok"), headers=[("Set-Cookie", "node=a")])

    client = any_client(serve(script).url, max_retries=1)
    assert [client.complete("x").content for _ in range(2)] == ["ok", "ok"]


def test_a_jar_of_the_users_is_not_emptied(serve: Serve) -> None:
    """Whatever fails, their session keeps its cookies."""
    server = serve(lambda asked: [whole({}, 503)])
    with requests.Session() as mine, Client(server.url, session=mine, max_retries=1) as client:
        mine.cookies.set("login", "yes")
        with pytest.raises(errors.Unavailable):
            client.complete("x")
        assert dict(mine.cookies) == {"login": "yes"} and len(server.asked) == 2


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_to_another_host_takes_no_secrets(
    any_client: MakeClient, serve: Serve, status: int
) -> None:
    """Key, cookies and the user's headers stay at home; method and body go along."""
    away = serve(lambda asked: [whole(final("away"), headers=[("Set-Cookie", "evil=1")])])
    location = f"http://localhost:{away.port}/completion"

    def script(asked: Asked) -> Iterator[Step]:
        if asked.number == 0:
            yield whole(final(), headers=[("Set-Cookie", "home=1")])
        else:
            yield whole(b"", status, [("Location", location)])

    home = serve(script)
    client = any_client(home.url, api_key=KEY, headers={"X-Api-Key": KEY})
    session = Session()
    client.complete("x", session=session)
    assert client.complete("hello", session=session).content == "away"
    assert home.asked[1].headers["authorization"] == f"Bearer {KEY}"
    assert home.asked[1].headers["cookie"] == "home=1"
    (asked,) = away.asked
    assert asked.method == "POST" and asked.json["prompt"] == "hello"
    assert KEY not in str(asked.headers) and "cookie" not in asked.headers
    assert "evil" not in str(session.cookies)


def test_redirect_on_the_same_host(any_client: MakeClient, serve: Serve) -> None:
    """Within the origin everything goes along."""

    def script(asked: Asked) -> Iterator[Step]:
        moved = whole(b"", 308, [("Location", "/new/completion"), ("Set-Cookie", "a=1; Path=/")])
        yield whole(final("here")) if asked.path == "/new/completion" else moved

    server = serve(script)
    assert any_client(server.url, api_key=KEY).complete("x").content == "here"
    assert server.asked[1].headers["authorization"] == f"Bearer {KEY}"
    assert server.asked[1].headers["cookie"] == "a=1"


NOWHERE = ["ftp://x/", "", "http://", "javascript:alert(1)", "http://[::1", "http://h:99999999/"]


@pytest.mark.parametrize("location", NOWHERE)
def test_redirect_to_nowhere(any_client: MakeClient, serve: Serve, location: str) -> None:
    """Only addresses of the web are followed."""
    server = serve(lambda asked: [whole(b"", 302, [("Location", location)])])
    with pytest.raises(errors.InvalidReply):
        any_client(server.url).complete("x")


def test_redirect_in_circles(any_client: MakeClient, serve: Serve) -> None:
    """A loop ends."""
    server = serve(lambda asked: [whole(b"", 307, [("Location", asked.path)])])
    with pytest.raises(errors.InvalidReply, match="redirects"):
        any_client(server.url).complete("x")
    assert len(server.asked) == 6


def test_the_key_from_the_environment(
    any_client: MakeClient, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`LIBERTAI_API_KEY` is sent as Bearer; an argument wins; a header of the user's wins."""
    server = serve(lambda asked: [whole(final())])
    monkeypatch.setenv("LIBERTAI_API_KEY", "from-env")
    monkeypatch.setenv("LIBERTAI_API_BASE", server.url)
    any_client().complete("x")
    any_client(api_key=KEY).complete("x")
    any_client(headers={"authorization": "Custom 1"}).complete("x")
    any_client(server.url.replace("//", "//user:p%40ss@")).complete("x")
    sent = [asked.headers["authorization"] for asked in server.asked]
    assert sent == ["Bearer from-env", f"Bearer {KEY}", "Custom 1", "Basic dXNlcjpwQHNz"]


def test_no_proxy_and_no_netrc_of_the_environment(
    any_client: MakeClient, serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Our own connections go where they are told, with what they are told."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login thief password p\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server = serve(lambda asked: [whole(final("direct"))])
    assert any_client(server.url).complete("x").content == "direct"
    assert "authorization" not in server.asked[0].headers


def test_a_requests_session_of_the_users(serve: Serve) -> None:
    """Its headers, auth, cookies and hooks are used; other conversations get copies of cookies."""
    server = serve(lambda asked: [whole(final(), headers=[("Set-Cookie", "node=a")])])
    mine = requests.Session()
    mine.trust_env = False
    mine.headers["X-Mine"] = "1"
    mine.auth = ("user", "password")
    mine.cookies.set("login", "yes")
    seen: list[int] = []
    mine.hooks["response"].append(lambda response, **_: seen.append(response.status_code))
    client = Client(server.url, session=mine)
    client.complete("x")
    assert dict(mine.cookies) == {"login": "yes", "node": "a"}, "the default conversation is mine"
    other = Session()
    client.complete("x", session=other)
    client.complete("x", session=other)
    client.close()
    assert [asked.headers.get("cookie") for asked in server.asked] == [
        "login=yes",
        "login=yes",
        "login=yes; node=a",
    ]
    assert all(asked.headers["x-mine"] == "1" for asked in server.asked)
    assert all(asked.headers["authorization"].startswith("Basic ") for asked in server.asked)
    assert seen == [200, 200, 200]
    mine.get(server.url)  # closing the client leaves it open
    mine.close()


def test_a_requests_session_keeps_its_secrets_from_strangers(serve: Serve) -> None:
    """A redirect abroad gets none of the user's session either."""
    away = serve(lambda asked: [whole(final("away"))])
    location = f"http://localhost:{away.port}/completion"
    home = serve(lambda asked: [whole(b"", 307, [("Location", location)])])
    mine = requests.Session()
    mine.headers["X-Api-Key"] = KEY
    mine.auth = ("user", KEY)
    mine.cookies.set("login", KEY)
    mine.params = {"token": KEY}
    with Client(home.url, session=mine) as client:
        assert client.complete("x").content == "away"
    assert KEY not in str(away.asked)
    mine.close()


async def test_an_httpx_client_of_the_users(serve: Serve) -> None:
    """Its headers and auth are used, and it stays open."""
    server = serve(lambda asked: [whole(final(), headers=[("Set-Cookie", "node=a")])])
    async with httpx.AsyncClient(
        headers={"X-Mine": "1"}, auth=("u", "p"), cookies={"login": "yes"}
    ) as mine:
        async with AsyncClient(server.url, http_client=mine) as client:
            await client.complete("x")
            await client.complete("x", session=Session())
        assert not mine.is_closed and dict(mine.cookies) == {"login": "yes", "node": "a"}
    assert [asked.headers["cookie"] for asked in server.asked] == ["login=yes", "login=yes"]
    assert all(asked.headers["x-mine"] == "1" for asked in server.asked)
    assert all(asked.headers["authorization"].startswith("Basic ") for asked in server.asked)


def test_many_threads_on_one_client(serve: Serve) -> None:
    """32 threads, each its own conversation: every answer is its own, no cookie strays."""

    def script(asked: Asked) -> Iterator[Step]:
        prompt = asked.json["prompt"]
        cookie = asked.headers.get("cookie")
        headers = [("Set-Cookie", f"id={prompt}; Path=/")]
        reply = final(f"{prompt} {cookie}")
        yield stream(reply, headers=headers) if asked.json["stream"] else whole(reply, 200, headers)

    server = serve(script)
    answers: dict[str, list[str]] = {}
    with Client(server.url) as client:

        def talk(name: str) -> None:
            session = Session()
            answers[name] = [client.complete(name, session=session).content for _ in range(3)]
            answers[name] += [c.content for c in client.stream(name, session=session)]

        threads = [threading.Thread(target=talk, args=(f"t{n}",)) for n in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(answers) == 32
    for name, texts in answers.items():
        assert texts == [f"{name} None"] + [f"{name} id={name}"] * 3


def test_many_threads_in_one_conversation(serve: Serve) -> None:
    """Calls of one session at the same time: the jar takes it, no cookie is lost."""

    def script(asked: Asked) -> Iterator[Step]:
        headers = [("Set-Cookie", f"c{asked.number}=1; Path=/")]
        yield whole(final(slot_id=3), headers=headers)

    server = serve(script)
    session = Session()
    with Client(server.url) as client:
        client.complete("x", session=session)
        threads = [
            threading.Thread(target=client.complete, args=("x",), kwargs={"session": session})
            for _ in range(32)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.asked) == 33 and not session.is_in_flight
    assert len(list(session.cookies)) == 33


@pytest.mark.parametrize("has_begun", [False, True])
def test_closing_an_async_client_that_waits(serve: Serve, has_begun: bool) -> None:
    """The call ends with an error that says so, is not made again, and leaves nothing open."""
    begin = [event(said("a"))] if has_begun else []
    server = serve(lambda asked: [stream_head(), *begin, Verb.AWAIT_HANGUP])
    client = AsyncClient(server.url)

    async def close_soon() -> None:
        while not server.asked:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        await client.aclose()

    async def work() -> None:
        closing = asyncio.create_task(close_soon())
        with pytest.raises(errors.LibertaiError, match="closed while it waited") as caught:
            async for _ in client.stream("x"):
                pass
        assert caught.value.partial_text == ("a" if has_begun else "")
        await closing
        assert server.hung_up.wait(5), "no connection is left"

    asyncio.run(work())
    assert len(server.asked) == 1


async def test_a_closed_client_of_the_users(serve: Serve) -> None:
    """Said as everything else is."""
    server = serve(lambda asked: [whole(final())])
    mine = httpx.AsyncClient()
    await mine.aclose()
    with pytest.raises(errors.LibertaiError, match="is closed"):
        await AsyncClient(server.url, http_client=mine).complete("x")
    assert not server.asked


def test_many_loops_on_one_client(serve: Serve) -> None:
    """One `AsyncClient` in three running event loops at once, then in two more in turn."""
    server = serve(lambda asked: [0.02, stream(said("a"), final("b"))])
    client = AsyncClient(server.url)

    async def talk() -> list[str]:
        async def once() -> str:
            return "".join([chunk.content async for chunk in client.stream("x")])

        return await asyncio.gather(*(once() for _ in range(8)))

    answers: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(asyncio.run(talk()))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers += [asyncio.run(talk()) for _ in range(2)]
    assert answers == [["ab"] * 8] * 5
    asyncio.run(client.aclose())


async def test_cancelling_a_task_closes_the_socket(serve: Serve) -> None:
    """A cancelled call, whole or streamed, is noticed by the server."""
    for begin in ([], [stream_head(), event(said("a"))]):
        server = serve(lambda asked, begin=begin: [*begin, Verb.AWAIT_HANGUP])  # type: ignore[misc]
        client = AsyncClient(server.url)

        async def read(client: AsyncClient = client, is_stream: bool = bool(begin)) -> None:
            if is_stream:
                async for _ in client.stream("x"):
                    pass
            else:
                await client.complete("x")

        task = asyncio.create_task(read())
        while not server.asked:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.hung_up.wait, 5)
        await client.aclose()


def test_the_loop_keeps_ticking(serve: Serve) -> None:
    """While answers come, other tasks of the loop run on time."""
    tokens = [step for _ in range(20) for step in (event(said("a")), 0.01)]
    server = serve(lambda asked: [stream_head(), *tokens, event(final()), STREAM_END])

    async def measure() -> float:
        async with AsyncClient(server.url) as client:
            await _read_all(client)
            reading = asyncio.create_task(_read_all(client))
            worst, last = 0.0, asyncio.get_running_loop().time()
            while not reading.done():
                await asyncio.sleep(0.001)
                now = asyncio.get_running_loop().time()
                worst, last = max(worst, now - last), now
            await reading
            return worst

    assert asyncio.run(measure()) < 0.25


async def _read_all(client: AsyncClient) -> None:
    async for _ in client.stream("x"):
        pass


def test_secrets_are_shown_nowhere(
    any_client: MakeClient,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not in repr, logs, errors or pickles: key, password, cookies, headers of the user's."""
    caplog.set_level(logging.DEBUG)
    cookie = "a-cookie-to-keep"
    answer = whole({"error": "no"}, 503, [("Set-Cookie", f"s={cookie}")])
    server = serve(lambda asked: [answer])
    for secret in (
        {"api_key": KEY},
        {"headers": {"X-Api-Key": KEY}},
        {"base_url": server.url.replace("//", f"//user:{KEY}@")},
    ):
        client = any_client(**{"base_url": server.url, "max_retries": 1, **secret})
        session = Session()
        with pytest.raises(errors.Unavailable) as caught:
            client.complete("a private prompt", session=session)
        inner = getattr(client, "inner", client)
        shown = [repr(inner), str(inner), repr(session), repr(caught.value), str(caught.value)]
        shown += [inner.target, repr(pickle.dumps(inner)), repr(pickle.dumps(caught.value))]
        assert not any(KEY in each or cookie in each for each in shown)
        assert KEY in str(server.asked[-1].headers) or "Basic" in str(server.asked[-1].headers)
        again = pickle.loads(pickle.dumps(inner))
        assert again.target == inner.target and type(again) is type(inner)
        assert copy.deepcopy(inner) is inner and copy.copy(inner) is inner
    assert not any(KEY in each or "private" in each for each in caplog.messages)
    # (At its own debug level httpcore shows the headers of answers, cookies among them.)
    ours = [record.getMessage() for record in caplog.records if "libertai" in record.name]
    assert ours and not any(cookie in each for each in ours)


def test_a_client_with_parts_of_the_users_is_not_pickled() -> None:
    """What a pickle could not carry is said, not dropped."""
    with requests.Session() as mine, pytest.raises(TypeError, match=r"requests\.Session"):
        pickle.dumps(Client("http://127.0.0.1:9", session=mine))


def _complete_in_a_fork(call: Callable[[], str]) -> None:
    """Run a call in a forked process."""
    child = multiprocessing.get_context("fork").Process(target=call)
    child.start()
    child.join(30)
    assert child.exitcode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("is_ours", [True, False], ids=["our session", "the user's session"])
def test_a_fork_has_connections_of_its_own(serve: Serve, is_ours: bool) -> None:
    """It never speaks on its parent's, and the parent keeps using its own."""
    server = serve(lambda asked: [whole(final("ok"))])
    mine = None if is_ours else requests.Session()
    with Client(server.url, session=mine) as client:
        client.complete("parent")
        for _ in range(2):
            _complete_in_a_fork(lambda: [client.complete("child").content for _ in range(2)][0])
        client.complete("parent")
    if mine is not None:
        mine.close()
    spoken = [(asked.client, asked.json["prompt"]) for asked in server.asked]
    assert len(spoken) == 6 and spoken[0] == spoken[-1]
    assert len(set(spoken)) == server.num_connections == 3


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_of_an_asynchronous_client_has_connections_of_its_own(serve: Serve) -> None:
    """Its event loop is another one, and so is its pool."""
    server = serve(lambda asked: [whole(final("ok"))])
    client, loop = AsyncClient(server.url), asyncio.new_event_loop()

    async def ask(prompt: str) -> str:
        return (await client.complete(prompt)).content

    loop.run_until_complete(ask("parent"))
    _complete_in_a_fork(lambda: asyncio.run(ask("child")))
    loop.run_until_complete(ask("parent"))
    loop.run_until_complete(client.aclose())
    loop.close()
    spoken = [(asked.client, asked.json["prompt"]) for asked in server.asked]
    assert spoken[0] == spoken[-1] != spoken[1] and server.num_connections == 2


def test_a_store_serves_many_conversations(any_client: MakeClient, serve: Serve) -> None:
    """Two keys and one conversation without a key, found again by what was said."""

    def script(asked: Asked) -> Iterator[Step]:
        slots = {"k1": 1, "k2": 2}
        yield whole(final(" ok.", slot_id=slots.get(asked.json["prompt"][:2], 3)))

    server = serve(script)
    client = any_client(server.url)
    store = SessionStore()
    for key, prompt in [("1", "k1 hi"), ("2", "k2 hi"), (None, "once"), ("1", "k1 new")]:
        with store.checkout(key, prompt) as session:
            client.complete(prompt, session=session)
    with store.checkout(None, "once ok. And then?") as session:
        client.complete("once ok. And then?", session=session)
    assert [body["slot_id"] for body in server.bodies] == [-1, -1, -1, 1, 3]
