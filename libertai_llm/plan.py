"""What both clients have in common: where they go, their limits, and the calls they make. No I/O.

In: a client's arguments, then the arguments of its methods. Out: `Call`s to drive, and what the
small answers say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from libertai_llm.call import Call
from libertai_llm.checks import INT32_MAX, check_integer, check_json_object, check_text
from libertai_llm.endpoint import Endpoint
from libertai_llm.errors import APIError, InvalidReply, Unavailable
from libertai_llm.params import completion_body, infill_body
from libertai_llm.retry import RetryPolicy
from libertai_llm.session import Session
from libertai_llm.target import resolve_target
from libertai_llm.timeouts import Timeouts
from libertai_llm.types import Health, TokenPiece, tokens_of

COMPLETION, INFILL, EMBEDDING = "/completion", "/infill", "/embedding"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan:
    """A client's settings, resolved.

    Invariant: `endpoint` is a server, or None; then `engine` is a model's name or an engine.
    """

    endpoint: Endpoint | None
    engine: Any
    timeouts: Timeouts
    policy: RetryPolicy

    @classmethod
    def make(
        cls,
        base_url: str | None,
        engine: Any,
        *,
        api_key: str | None,
        timeouts: Timeouts | float | None,
        max_retries: int,
        headers: Mapping[str, str] | None,
        brings_auth: bool,
    ) -> Plan:
        """Resolve a client's arguments. Raises `InvalidOption`."""
        target = resolve_target(
            base_url, engine, api_key=api_key, headers=headers, brings_auth=brings_auth
        )
        endpoint = target if isinstance(target, Endpoint) else None
        default = Timeouts() if endpoint else Timeouts.unlimited()
        return cls(
            endpoint=endpoint,
            engine=None if endpoint else target,
            timeouts=Timeouts.of(timeouts, default),
            policy=RetryPolicy(max_retries=max_retries),
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """What makes an equal client in another process; no secrets. Raises `TypeError`."""
        if self.endpoint is None and not isinstance(self.engine, str):
            raise TypeError("a client of a running engine cannot be pickled: name its model")
        return {
            "base_url": self.endpoint.base_url if self.endpoint else None,
            "engine": self.engine,
            "timeouts": self.timeouts,
            "max_retries": self.policy.max_retries,
        }

    @property
    def target(self) -> str:
        """Where the calls go, without secrets."""
        if self.endpoint is not None:
            return self.endpoint.base_url
        return f"engine:{self.engine if isinstance(self.engine, str) else self.engine.name}"

    def __repr__(self) -> str:
        if self.endpoint is not None:
            return f"base_url={self.endpoint.base_url!r}"
        return f"engine={self.engine!r}"

    def completion(
        self, prompt: Any, options: Mapping[str, Any], caller: Caller, *, is_stream: bool
    ) -> Call:
        """A call of `/completion`. Raises `OptionError`."""
        return self._call(COMPLETION, completion_body(prompt, options, is_stream), caller)

    def several(self, prompts: Sequence[Any], options: Mapping[str, Any], caller: Caller) -> Call:
        """A call of `/completion` with checked prompts. Raises `OptionError`."""
        body = completion_body("", options, is_stream=False)
        return self._call(COMPLETION, {**body, "prompt": list(prompts)}, caller)

    def infill(
        self,
        parts: Mapping[str, Any],
        options: Mapping[str, Any],
        caller: Caller,
        *,
        is_stream: bool,
    ) -> Call:
        """A call of `/infill`, `parts` being those of `infill_parts`. Raises `OptionError`."""
        return self._call(INFILL, infill_body(parts, options, is_stream), caller)

    def embedding(self, texts: Sequence[str], options: Mapping[str, Any], caller: Caller) -> Call:
        """A call of `/embedding` for checked texts; a single one is sent as every server knows."""
        content = texts[0] if len(texts) == 1 else list(texts)
        return self._call(EMBEDDING, {**options, "content": content}, caller)

    def simple(self, path: str, body: dict[str, Any] | None, caller: Caller) -> Call:
        """A call of a route without a slot: POST if there is a body, else GET."""
        return self._call(path, body, caller)

    def _call(self, path: str, body: dict[str, Any] | None, caller: Caller) -> Call:
        return Call(
            path,
            body,
            session=caller.session,
            target=self.target,
            keeps_slot=caller.keeps_slot and path in (COMPLETION, INFILL),
            policy=self.policy,
            timeouts=Timeouts.of(caller.timeouts, self.timeouts),
        )


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a call is made: a conversation, which keeps its slot, or none."""

    session: Session
    keeps_slot: bool
    timeouts: Timeouts | float | None = None

    @classmethod
    def of(
        cls, session: Session | None, default: Session, timeouts: Timeouts | float | None
    ) -> Caller:
        """`session`, or the client's default conversation, which shares cookies but no slot."""
        return cls(session or default, session is not None, timeouts)


def make_again(kind: Any, arguments: dict[str, Any]) -> Any:
    """A client from its pickled settings."""
    return kind(**arguments)


def tokenize_body(text: Any, add_special: bool, parse_special: bool, with_pieces: bool) -> Any:
    """The body of `/tokenize`. Raises `InvalidOption`."""
    body: dict[str, Any] = {"content": check_text("text", text)}
    # Only what differs from the defaults: a server of 2023 knows none of these.
    changes = {
        "add_special": add_special,
        "parse_special": parse_special,
        "with_pieces": with_pieces,
    }
    defaults = {"add_special": False, "parse_special": True, "with_pieces": False}
    return body | {name: bool(on) for name, on in changes.items() if on != defaults[name]}


def detokenize_body(ids: Iterable[Any]) -> dict[str, Any]:
    """The body of `/detokenize`. Raises `InvalidOption`."""
    return {"tokens": [check_integer("ids", each, 0, INT32_MAX) for each in ids]}


def template_body(messages: Iterable[Any]) -> dict[str, Any]:
    """The body of `/apply-template`. Raises `InvalidOption`."""
    return {"messages": [check_json_object("messages", each) for each in messages]}


def prompt_of(reply: Mapping[str, Any]) -> str:
    """The text of an `/apply-template` answer. Raises `InvalidReply`."""
    prompt = reply.get("prompt")
    if not isinstance(prompt, str):
        raise InvalidReply("no text in `prompt`")
    return prompt


def token_ids(reply: Mapping[str, Any]) -> list[int]:
    """The ids of a `/tokenize` answer. Raises `InvalidReply`."""
    return [each.id if isinstance(each, TokenPiece) else each for each in tokens_of(reply)]


def token_pieces(reply: Mapping[str, Any]) -> list[TokenPiece]:
    """The ids and bytes of a `/tokenize` answer. Raises `InvalidReply`."""
    tokens = tokens_of(reply)
    pieces = [each for each in tokens if isinstance(each, TokenPiece)]
    if len(pieces) != len(tokens):
        raise InvalidReply("this server tells token ids only, without pieces")
    return pieces


def health_of(reply: Mapping[str, Any]) -> Health:
    """What a `/health` answer of status 200 says."""
    status = reply.get("status")
    return Health(is_ready=True, status=status if isinstance(status, str) else "ok")


def health_of_refusal(error: APIError) -> Health | None:
    """What a refused `/health` says; None if the server may just not have that route."""
    if isinstance(error, Unavailable):
        return Health(is_ready=False, status=error.message)
    if error.status in (404, 405, 501):
        return None
    raise error
