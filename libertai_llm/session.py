"""A conversation: its cookies, its slot, its server; and the store that finds it again.

In: what the answers of a server set. Out: what the next request of the same conversation sends, so
that it reaches the machine and the slot that still hold its context.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.cookiejar import Cookie, CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

from requests.cookies import RequestsCookieJar

from libertai_llm.errors import InvalidOption

if TYPE_CHECKING:
    from urllib.request import Request

ANY_SLOT = -1
MAX_COOKIE_BYTES = 4096


class Session:
    """One conversation with one server. Safe from many threads and event loops.

    Invariant: `slot_id` is a slot of the server that answered last, as told by its origin and its
    cookies, or -1. While a call is in flight, further calls of the same session go out with -1.
    Give it to `Client.complete(…, session=…)`; one `Session` for each conversation. `cookies` is a
    jar to use instead of a new one; it is emptied when a server has to be left only if the session
    `owns_cookies`.
    """

    def __init__(
        self,
        key: str | None = None,
        *,
        slot_id: int = ANY_SLOT,
        cookies: CookieJar | None = None,
        owns_cookies: bool = False,
    ) -> None:
        self.key = key
        self.slot_id = slot_id
        self.cookies: CookieJar = new_jar() if cookies is None else cookies
        self._owns_cookies = owns_cookies or cookies is None
        self.prompt = ""
        self.text = ""
        self._target = ""
        self._server: Any = None
        self._in_flight = 0
        self._lock = threading.Lock()

    @property
    def is_in_flight(self) -> bool:
        """True while a call uses this session."""
        return self._in_flight > 0

    @property
    def has_answered(self) -> bool:
        """True once a server has answered in this conversation."""
        return self._server is not None

    def begin(self, target: str) -> int:
        """Enter a call to a client's target; returns the slot to ask for. Pair with `end`."""
        with self._lock:
            if self._target not in ("", target):
                self.slot_id, self._server = ANY_SLOT, None
            self._target = target
            self._in_flight += 1
            return self.slot_id if self._in_flight == 1 else ANY_SLOT

    def end(self) -> None:
        """Leave a call."""
        with self._lock:
            self._in_flight -= 1

    def on_answer_from(self, origin: str) -> None:
        """An answer begins. Another origin, or changed cookies, mean another server: slot -1."""
        server = (origin, frozenset(_facts(cookie) for cookie in cookies_in(self.cookies)))
        with self._lock:
            if self._server not in (None, server):
                self.slot_id = ANY_SLOT
            self._server = server

    def on_slot(self, slot_id: int) -> None:
        """Take the slot that an answer told; -1 (not told) changes nothing."""
        if slot_id >= 0:
            self.slot_id = slot_id

    def on_text(self, prompt: Any, answer: str) -> None:
        """Remember what the slot's context holds now, to recognise the next turn."""
        if isinstance(prompt, str):
            with self._lock:
                self.prompt, self.text = prompt, prompt + answer

    def yield_slot_to(self, other: Session) -> None:
        """If another conversation has been in this one's slot since, ask for any from now on."""
        if other.slot_id == self.slot_id and other._server == self._server:
            self.slot_id = ANY_SLOT

    def forget_server(self) -> None:
        """Drop slot, server and cookies (unless the caller brought the jar): begin anew."""
        with self._lock:
            self.slot_id = ANY_SLOT
            self._server = None
            if self._owns_cookies:
                self.cookies.clear()

    def fork(self) -> Session:
        """A new conversation on the same server: a copy of the cookies, slot -1, its own text."""
        twin = Session()
        with self._lock:
            copy_cookies(self.cookies, twin.cookies)
            twin._target, twin._server = self._target, self._server
            twin.prompt, twin.text = self.prompt, self.text
        return twin

    def __repr__(self) -> str:
        """Cookies are secrets: only their number is shown."""
        num_cookies = len(cookies_in(self.cookies))
        return f"Session(key={self.key!r}, slot_id={self.slot_id}, cookies={num_cookies})"


class SessionStore:
    """Conversations by key, or by what was said. At most `max_sessions`, least recently used go.

    Invariant: a session that is checked out is never handed out again before it comes back, and no
    two sessions claim one slot of one server: who used it last has it. Safe from many threads;
    holds no lock while the caller works, so it serves asyncio tasks as well.
    Raises `InvalidOption` if `max_sessions` is below 1. A pickled store comes back empty.
    """

    def __init__(self, max_sessions: int = 256) -> None:
        if max_sessions < 1:
            raise InvalidOption("`max_sessions` must be at least 1", field="max_sessions")
        self.max_sessions = max_sessions
        self._sessions: OrderedDict[Any, Session] = OrderedDict()
        self._taken: set[int] = set()
        self._lock = threading.Lock()

    @contextmanager
    def checkout(self, key: str | None, prompt: Any) -> Iterator[Session]:
        """Borrow the session of a conversation for one call (`with`, also around `await`).

        With a key, that key's session. Without one, the session whose last prompt this prompt
        continues (the longest such). If it is in flight, or if the prompt only shares its first
        half or more with a known one, a fresh session with slot -1 and a copy of the cookies;
        else a fresh one.
        """
        with self._lock:
            session = self._find(key, prompt)
            self._taken.add(id(session))
        try:
            yield session
        finally:
            with self._lock:
                self._taken.discard(id(session))
                self._keep(key, session)

    def __len__(self) -> int:
        return len(self._sessions)

    def __reduce__(self) -> tuple[type[SessionStore], tuple[int]]:
        return SessionStore, (self.max_sessions,)

    def _find(self, key: str | None, prompt: Any) -> Session:
        known = self._by_text(prompt) if key is None else self._sessions.get(key)
        if known is not None and id(known) not in self._taken:
            return known
        if known is not None:
            return known.fork()
        relative = None if key is not None else self._relative(prompt)
        return Session(key) if relative is None else relative.fork()

    def _by_text(self, prompt: Any) -> Session | None:
        """The session whose last prompt is the longest beginning of this one."""
        if not isinstance(prompt, str):
            return None
        known = [
            session
            for session in self._sessions.values()
            if session.key is None and session.prompt and prompt.startswith(session.prompt)
        ]
        # A session that knows its answer to have been continued beats one that was branched from.
        return max(known, key=lambda each: _rank(each, prompt, self._taken), default=None)

    def _relative(self, prompt: Any) -> Session | None:
        """The session that shares the most with this prompt, if that is half of the prompt."""
        if not isinstance(prompt, str) or not prompt:
            return None
        unkeyed = (each for each in self._sessions.values() if each.key is None)
        shared = [(common_prefix(each.text, prompt), each) for each in unkeyed]
        length, best = max(shared, key=lambda pair: pair[0], default=(0, None))
        return best if 2 * length >= len(prompt) else None

    def _keep(self, key: str | None, session: Session) -> None:
        # The copy made while a key's own session was in flight has served its purpose.
        if session.has_answered and session.key == key:
            name = id(session) if key is None else key
            self._sessions[name] = session
            self._sessions.move_to_end(name)
        if session.slot_id >= 0:
            for other in self._sessions.values():
                if other is not session:
                    other.yield_slot_to(session)
        while len(self._sessions) > self.max_sessions:
            self._sessions.popitem(last=False)


class _CookiePolicy(DefaultCookiePolicy):
    """The browsers' rules for domains and paths, no cookie above 4 KiB, and plain text only.

    NOTE: a cookie that a header cannot carry would fail every further call of its conversation.
    """

    def set_ok(self, cookie: Cookie, request: Request) -> bool:
        """Whether to keep a cookie that a server sets."""
        text = cookie.name + (cookie.value or "")
        is_plain = text.isascii() and text.isprintable() and len(text) <= MAX_COOKIE_BYTES
        return is_plain and super().set_ok(cookie, request)


def new_jar() -> RequestsCookieJar:
    """An empty cookie jar of our rules."""
    return RequestsCookieJar(policy=_CookiePolicy())


def copy_cookies(source: CookieJar, target: CookieJar) -> None:
    """Put copies of all cookies of one jar into another."""
    for cookie in cookies_in(source):
        target.set_cookie(copy.copy(cookie))


def cookies_in(jar: CookieJar) -> list[Cookie]:
    """What a jar holds now.

    NOTE: a jar cannot be walked while another call of the conversation puts a cookie in.
    """
    while True:
        with suppress(RuntimeError):
            return list(jar)


def common_prefix(first: str, second: str) -> int:
    """Number of leading characters that two texts share, by halving (fast on long texts)."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _rank(session: Session, prompt: str, taken: set[int]) -> tuple[int, bool]:
    return common_prefix(session.text, prompt), id(session) not in taken


def _facts(cookie: Cookie) -> tuple[str, str, str, str | None]:
    return cookie.domain, cookie.path, cookie.name, cookie.value
