"""One call of the API, attempt by attempt: what to send, and what follows a failure. No I/O.

In: a route, its body, the conversation it belongs to. Out: the body of each attempt, the pause
before the next one, and a session that knows where the conversation stands. The blocking and the
asynchronous client drive the same object.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import replace
from types import TracebackType
from typing import Any

from libertai_llm.context import refuse_cut_prompt
from libertai_llm.errors import BadRequest, LibertaiError, RateLimited, SlotUnavailable, TimedOut
from libertai_llm.retry import RetryPolicy
from libertai_llm.session import ANY_SLOT, Session
from libertai_llm.timeouts import Timeouts
from libertai_llm.types import Completion, CompletionChunk

log = logging.getLogger(__name__)


class Call:
    """One call. Use it with `with`, around all attempts.

    Invariant: once a part of the answer was handed on (`begun`), no attempt follows. The session's
    slot is in the body unless the caller chose one, or another call of the session is in flight.
    """

    def __init__(
        self,
        path: str,
        body: dict[str, Any] | None,
        *,
        session: Session,
        target: str,
        keeps_slot: bool,
        policy: RetryPolicy,
        timeouts: Timeouts,
    ) -> None:
        self.path = path
        self.method = "GET" if body is None else "POST"
        self.body = {} if body is None else body
        self.session = session
        self.begun = False
        self._target = target
        self._keeps_slot = keeps_slot and "slot_id" not in self.body
        self._policy = policy
        self._timeouts = timeouts
        self._end: float | None = None
        self._attempt = 0
        self._last_error: LibertaiError | None = None

    def __enter__(self) -> Call:
        if self._timeouts.total is not None:
            self._end = time.monotonic() + self._timeouts.total
        slot = self.session.begin(self._target)
        if self._keeps_slot:
            self._ask_for(slot)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.session.end()

    @property
    def timeouts(self) -> Timeouts:
        """The limits of the next attempt: of the total, what is left."""
        if self._end is None or self._last_error is None:
            return self._timeouts
        return replace(self._timeouts, total=max(self._end - time.monotonic(), 1e-3))

    @property
    def wants_tokens(self) -> bool:
        """Whether the ids of the answer were asked for."""
        return self.body.get("return_tokens") is True

    def take(self, chunk: CompletionChunk) -> None:
        """A chunk is about to be handed on; the last one ends the call well."""
        self.begun = True
        if chunk.final is not None:
            self.succeed(chunk.final)
        elif self._keeps_slot:
            # Who breaks the answer off comes back to the slot that holds what was evaluated.
            self.session.on_slot(chunk.slot_id)

    def succeed(self, completion: Completion) -> None:
        """The whole answer is here: the session learns where the conversation stands.

        Raises `ContextWindowExceeded` if the server dropped what the caller wanted to be read.
        """
        if self.path == "/completion" and self.body.get("context_shift") is False:
            refuse_cut_prompt(completion, self.body.get("n_predict"))
        if self._keeps_slot:
            self.session.on_slot(completion.slot_id)
            self.session.on_text(self.body.get("prompt"), completion.content)

    def pause_after(self, error: LibertaiError) -> float:
        """Seconds to wait before the next attempt. Raises `error` if there is none."""
        if self.begun:
            raise error
        is_out_of_time = isinstance(error, TimedOut) and error.phase == "total"
        if is_out_of_time and self._end is not None and self._last_error:
            # The time went by in earlier attempts, and with them goes the reason.
            message = f"timed out: no answer within {self._timeouts.total:g} s"
            raise TimedOut(f"{message}; before that: {self._last_error}") from self._last_error
        if self._repair(error):
            self._last_error = error
            return 0.0
        delay = self._policy.delay(error, self._attempt)
        if delay is None or (self._end is not None and time.monotonic() + delay >= self._end):
            raise error
        self._attempt += 1
        self._last_error = error
        if self._attempt == self._policy.max_retries:
            self._become_stranger(error)
        log.info("%s failed (%s), again in %.2f s", self.path, type(error).__name__, delay)
        return delay

    def _ask_for(self, slot: int) -> None:
        # LibertAI's clients send both names: each generation of servers knows one of them.
        self.body["slot_id"] = self.body["id_slot"] = slot

    def _repair(self, error: LibertaiError) -> bool:
        """Change what this server cannot take and we added ourselves; true if there was such."""
        had_slot = self._keeps_slot and self.body["slot_id"] != ANY_SLOT
        if had_slot and isinstance(error, BadRequest) and _SLOT_WORDS.search(error.message):
            # The conversation came to a server with fewer slots than the one before.
            self.session.slot_id = ANY_SLOT
            self._ask_for(ANY_SLOT)
            return True
        lacks_prompt = self.path == "/infill" and "prompt" not in self.body
        if lacks_prompt and "[json.exception.out_of_range" in str(error):
            # The server of 2023 wants a prompt for /infill although it ignores it.
            self.body["prompt"] = " "
            return True
        return False

    def _become_stranger(self, error: LibertaiError) -> None:
        """Before the last attempt: give up slot and sticky cookie, which may be what fails.

        A server of 2023 refuses while all its slots are busy; until the last attempt it is asked
        for the same slot again, because that slot holds the conversation. A gateway sends a
        conversation to the machine its cookie names, even if that machine is gone. A limit on
        requests or a failure of the machine itself (500) is no reason to leave it.
        """
        is_at_home = isinstance(error, RateLimited) or getattr(error, "status", 0) == 500
        if is_at_home:
            return
        if self._keeps_slot:
            self._ask_for(ANY_SLOT)
        if isinstance(error, SlotUnavailable):
            self.session.slot_id = ANY_SLOT
        else:
            self.session.forget_server()


_SLOT_WORDS = re.compile(r"\b(id_slot|slot_id|slot)\b")
