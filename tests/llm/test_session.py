"""Conversations and the store that finds them again."""

from __future__ import annotations

import asyncio
import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.cookies import RequestsCookieJar, create_cookie

from libertai_llm.errors import InvalidOption
from libertai_llm.session import Session, SessionStore, common_prefix


def answered(session: Session, prompt: str, answer: str, slot: int = 0) -> Session:
    """Let a session live through one good call."""
    session.begin("http://server")
    session.on_answer_from("http://server:80")
    session.on_slot(slot)
    session.on_text(prompt, answer)
    session.end()
    return session


def set_cookie(session: Session, name: str, value: str) -> None:
    session.cookies.set_cookie(create_cookie(name, value, domain="server"))


def cookies_of(session: Session) -> dict[str, str | None]:
    return {cookie.name: cookie.value for cookie in session.cookies}


def test_a_session_starts_anywhere() -> None:
    """Slot -1, then what it was told; slot 0 counts, -1 does not."""
    session = Session()
    assert session.begin("t") == -1
    session.on_slot(0)
    session.on_slot(-1)
    session.end()
    assert session.begin("t") == 0


def test_one_call_at_a_time_gets_the_slot() -> None:
    """A second call while the first is in flight asks for any slot."""
    session = Session(slot_id=4)
    assert (session.begin("t"), session.begin("t")) == (4, -1)
    session.end()
    session.end()
    assert session.begin("t") == 4 and session.is_in_flight


@pytest.mark.parametrize("change", ["cookie", "origin", "new cookie"])
def test_another_server_means_another_slot(change: str) -> None:
    """A changed cookie value, one more cookie, or another host."""
    session = Session()
    set_cookie(session, "node", "a")
    answered(session, "p", "a", slot=3)
    session.on_answer_from("http://server:80")
    assert session.slot_id == 3
    if change == "cookie":
        set_cookie(session, "node", "b")
    if change == "new cookie":
        set_cookie(session, "other", "b")
    session.on_answer_from("http://other:80" if change == "origin" else "http://server:80")
    assert session.slot_id == -1


def test_a_slot_given_at_the_start_survives_the_first_answer() -> None:
    """The first server is not another server."""
    session = Session(slot_id=2)
    set_cookie(session, "node", "a")
    session.begin("t")
    session.on_answer_from("http://server:80")
    assert session.slot_id == 2


def test_forgetting() -> None:
    """As new; but a jar that the caller brought is not emptied."""
    for jar in (None, RequestsCookieJar()):
        session = Session(slot_id=2, cookies=jar)
        set_cookie(session, "node", "a")
        answered(session, "p", "a")
        session.forget_server()
        assert session.slot_id == -1 and not session.has_answered
        assert cookies_of(session) == ({} if jar is None else {"node": "a"})


def test_a_fork_shares_nothing() -> None:
    """Its cookies are copies, its slot is unknown."""
    session = answered(Session("key", slot_id=3), "p", "a", slot=3)
    set_cookie(session, "node", "a")
    fork = session.fork()
    set_cookie(fork, "node", "b")
    assert (fork.slot_id, fork.key, fork.text) == (-1, None, "pa")
    assert cookies_of(session) == {"node": "a"} and cookies_of(fork) == {"node": "b"}


def test_cookies_are_not_shown() -> None:
    """They may be secrets."""
    session = Session("k")
    set_cookie(session, "node", "very-secret")
    assert repr(session) == "Session(key='k', slot_id=-1, cookies=1)"


def test_a_key_finds_its_session() -> None:
    """The same key, the same session; another key, another."""
    store = SessionStore()
    with store.checkout("a", "x") as first:
        answered(first, "x", "y", slot=1)
    with store.checkout("b", "x y") as other:
        answered(other, "x", "y")
        assert other is not first and other.slot_id == 0
    with store.checkout("a", "something else") as again:
        assert again is first and again.slot_id == 1


def test_what_was_said_finds_its_session() -> None:
    """Without a key, the longest conversation that this prompt continues."""
    store = SessionStore()
    with store.checkout(None, "sys") as first, store.checkout(None, "sys: hello") as second:
        answered(first, "sys", " ok", slot=1)
        answered(second, "sys: hello", " ok", slot=2)
    with store.checkout(None, "sys ok, go on") as found:
        assert found is first
    with store.checkout(None, "sys: hello, rather") as found:
        assert found is second, "an answer may come back changed, its prompt does not"
    with store.checkout(None, "nothing like it") as fresh:
        assert not fresh.has_answered and fresh.slot_id == -1


def test_a_shared_beginning_gives_the_machine_but_not_the_slot() -> None:
    """A branch goes where its beginning is cached, but takes nobody's slot."""
    store = SessionStore()
    with store.checkout(None, "A" * 100) as first:
        set_cookie(first, "node", "a")
        answered(first, "A" * 100, "answer", slot=2)
    with store.checkout(None, "A" * 90 + "B" * 50) as branch:
        assert branch is not first and branch.slot_id == -1 and cookies_of(branch) == {"node": "a"}
    with store.checkout(None, "A" * 40 + "B" * 50) as stranger:
        assert not cookies_of(stranger)
    assert first.slot_id == 2


def test_keyed_conversations_are_found_by_key_only() -> None:
    """What was said under a key does not leak into conversations without one, nor back."""
    store = SessionStore()
    with store.checkout("secret", "hello there") as keyed:
        set_cookie(keyed, "node", "a")
        answered(keyed, "hello there", "hi")
    with store.checkout(None, "hello there hi") as unkeyed:
        assert not unkeyed.has_answered and not cookies_of(unkeyed)
        answered(unkeyed, "hello there hi", "x")
    with store.checkout("new", "hello there hi x") as other:
        assert not other.has_answered


@pytest.mark.parametrize("key", [None, "k"])
def test_a_session_in_flight_is_not_handed_out(key: str | None) -> None:
    """The second caller gets a copy of the cookies and any slot; the first keeps its session."""
    store = SessionStore()
    with store.checkout(key, "x") as session:
        set_cookie(session, "node", "a")
        answered(session, "x", "y", slot=5)
    with store.checkout(key, "xy z") as first, store.checkout(key, "xy z") as second:
        assert first is session and second is not session
        assert second.slot_id == -1 and cookies_of(second) == {"node": "a"}
        answered(second, "xy z", "2", slot=6)
    with store.checkout(key, "xy z") as again:
        assert again is session if key else again in (session, second)


def test_a_slot_has_one_conversation() -> None:
    """Who was served in another's slot has it now; on another server the number means nothing."""
    store = SessionStore()
    for key, slot in [("a", 0), ("b", 1), ("c", 0)]:
        with store.checkout(key, key) as session:
            answered(session, key, "x", slot=slot)
    with store.checkout("elsewhere", "x") as session:
        set_cookie(session, "node", "b")
        answered(session, "x", "x", slot=1)
    slots = {}
    for key in ("a", "b", "c", "elsewhere"):
        with store.checkout(key, key) as session:
            slots[key] = session.slot_id
    assert slots == {"a": -1, "b": 1, "c": 0, "elsewhere": 1}


def test_a_failed_call_comes_back() -> None:
    """An error inside `with` gives the session back; one that never answered is not kept."""
    store = SessionStore()
    with pytest.raises(RuntimeError), store.checkout("k", "x"):
        raise RuntimeError
    assert len(store) == 0
    with store.checkout("k", "x") as session:
        answered(session, "x", "y")
    with pytest.raises(RuntimeError), store.checkout("k", "x"):
        raise RuntimeError
    with store.checkout("k", "x") as again:
        assert again is session


def test_the_least_recently_used_go() -> None:
    """The store is bounded."""
    store = SessionStore(max_sessions=2)
    for key in ("a", "b", "a", "c"):
        with store.checkout(key, "x") as session:
            answered(session, "x", "y", slot=1)
    assert len(store) == 2
    for key, is_known in [("b", False), ("a", True), ("c", True)]:
        with store.checkout(key, "x") as session:
            assert session.has_answered is is_known
    with pytest.raises(InvalidOption, match="max_sessions"):
        SessionStore(max_sessions=0)


def test_a_pickled_store_is_empty() -> None:
    """Cookies and texts stay in their process."""
    store = SessionStore(max_sessions=7)
    with store.checkout("k", "x") as session:
        answered(session, "x", "y")
    again = pickle.loads(pickle.dumps(store))
    assert len(again) == 0 and again.max_sessions == 7


def test_many_threads() -> None:
    """However many borrow, no session is with two of them at once."""
    store = SessionStore(max_sessions=8)
    borrowed: set[int] = set()
    clashes: list[int] = []

    def borrow(number: int) -> None:
        for turn in range(100):
            key = str(turn % 5) if number % 2 else None
            with store.checkout(key, "x" * (turn % 7)) as session:
                if id(session) in borrowed:
                    clashes.append(number)
                borrowed.add(id(session))
                answered(session, "x" * (turn % 7), "y", slot=number)
                borrowed.discard(id(session))

    threads = [threading.Thread(target=borrow, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not clashes and len(store) <= 8


async def test_many_tasks() -> None:
    """The store serves tasks of one loop: no lock is held while a caller awaits."""
    store = SessionStore()
    with store.checkout("k", "x") as session:
        answered(session, "x", "y")

    async def borrow() -> Session:
        with store.checkout("k", "x") as borrowed:
            await asyncio.sleep(0.01)
            return borrowed

    found = await asyncio.gather(*(borrow() for _ in range(5)))
    assert found.count(session) == 1 and len(set(map(id, found))) == 5


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_common_prefix(start: str, first: str, second: str) -> None:
    """As counted one by one."""
    a, b = start + first, start + second
    expected = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    assert common_prefix(a, b) == (min(len(a), len(b)) if expected is None else expected)
