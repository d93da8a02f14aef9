"""What a server says, in one shape for every generation of servers.

In: JSON objects of December 2023's llama.cpp, early 2024's, today's llama-server, LibertAI, or our
own engine. Out: frozen dataclasses. Text is checked strictly; counts that a server leaves out or
garbles become 0, -1 or None, never an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from libertai_llm.errors import InvalidReply
from libertai_llm.probs import TokenProbs, finite, is_bytes, read_probs

StopType = Literal["eos", "word", "limit", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """How long a completion took, in milliseconds and tokens a second. None: not told.

    `prompt_n` is the number of prompt tokens that were evaluated (not those reused), `cache_n` the
    number that were reused, `predicted_n` the number generated. `draft_n` tokens were guessed
    ahead, of which `draft_n_accepted` were right.
    """

    prompt_n: int | None = None
    prompt_ms: float | None = None
    prompt_per_second: float | None = None
    predicted_n: int | None = None
    predicted_ms: float | None = None
    predicted_per_second: float | None = None
    cache_n: int | None = None
    draft_n: int | None = None
    draft_n_accepted: int | None = None

    @classmethod
    def from_wire(cls, value: Any) -> Timings:
        """From the `timings` object, whose values are null where nothing was measured."""
        found = value if isinstance(value, Mapping) else {}
        names = ("prompt_n", "predicted_n", "cache_n", "draft_n", "draft_n_accepted")
        counts = {name: count_of(found.get(name)) for name in names}
        reals = {
            name: finite(found.get(name))
            for phase in ("prompt", "predicted")
            for name in (f"{phase}_ms", f"{phase}_per_second")
        }
        return cls(**counts, **reals)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A finished answer.

    `stop_type` says why it ended: "eos" (the model was done), "word" (`stopping_word` came, which
    `content` does not contain), "limit" (`max_tokens`, or the context was full), or "none" (not
    told). `tokens_evaluated` counts the whole prompt, `tokens_cached` those of its tokens that were
    reused and not evaluated again, `tokens_predicted` the answer. `slot_id` is -1 if not told.
    `tokens` are the ids that made `content`, if they were asked for; the last one reaches further
    than `content` if a stop word cut it. `raw` is the server's object as it came.
    """

    content: str
    stop_type: StopType = "none"
    stopping_word: str = ""
    slot_id: int = -1
    tokens_evaluated: int = 0
    tokens_predicted: int = 0
    tokens_cached: int = 0
    truncated: bool = False
    timings: Timings = field(default_factory=Timings)
    model: str = ""
    probs: tuple[TokenProbs, ...] = ()
    tokens: tuple[int, ...] = ()
    generation_settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_wire(
        cls,
        reply: Any,
        *,
        content: str | None = None,
        probs: tuple[TokenProbs, ...] | None = None,
        tokens: tuple[int, ...] | None = None,
    ) -> Completion:
        """From a whole answer, or a stream's last event with what the stream had before.

        Raises `InvalidReply` if there is no text in it.
        """
        content = content_of(reply) if content is None else content
        timings = Timings.from_wire(reply.get("timings"))
        evaluated = count_of(reply.get("tokens_evaluated")) or 0
        settings = reply.get("generation_settings")
        return cls(
            content=content,
            stop_type=_stop_type(reply),
            stopping_word=_text(reply.get("stopping_word")),
            slot_id=slot_of(reply),
            tokens_evaluated=evaluated,
            tokens_predicted=count_of(reply.get("tokens_predicted")) or 0,
            tokens_cached=_reused(timings, evaluated),
            truncated=reply.get("truncated") is True,
            timings=timings,
            model=_text(reply.get("model")),
            probs=read_probs(reply) if probs is None else probs,
            tokens=ids_of(reply) if tokens is None else tokens,
            generation_settings=settings if isinstance(settings, Mapping) else {},
            raw=reply,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionChunk:
    """One event of a stream. `content` is what is new; `final` is the whole answer, on the last.

    The contents of a stream's chunks, concatenated, are `final.content`; likewise `probs` and
    `tokens`.
    """

    content: str
    slot_id: int = -1
    probs: tuple[TokenProbs, ...] = ()
    tokens: tuple[int, ...] = ()
    final: Completion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Props:
    """What a server tells of itself. None: it does not say (a server of 2023 says nothing)."""

    chat_template: str | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    context_size: int | None = None
    total_slots: int | None = None
    model: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def sees_images(self) -> bool | None:
        """Whether the model is shown what `image_data` holds.

        NOTE: today's llama-server has models that see and no `image_data`: it names a marker.
        """
        modalities = self.raw.get("modalities")
        told = modalities.get("vision") if isinstance(modalities, Mapping) else None
        if not isinstance(told, bool):
            return None
        return told and not self.raw.get("media_marker")

    @property
    def closes_grammars(self) -> bool:
        """Whether it is our own engine, which can end a grammar within the tokens that are left."""
        return _text(self.raw.get("build_info")).startswith("libertai-engine")

    @classmethod
    def from_wire(cls, reply: Mapping[str, Any]) -> Props:
        """From `GET /props`; empty texts count as not told."""
        settings = reply.get("default_generation_settings")
        settings = settings if isinstance(settings, Mapping) else {}
        model = _text(reply.get("model_alias")) or _text(reply.get("model_path"))
        return cls(
            chat_template=_text(reply.get("chat_template")) or None,
            bos_token=_text(reply.get("bos_token")) or None,
            eos_token=_text(reply.get("eos_token")) or None,
            context_size=count_of(settings.get("n_ctx")) or count_of(reply.get("n_ctx")) or None,
            total_slots=count_of(reply.get("total_slots")) or None,
            model=model or _text(settings.get("model")) or None,
            raw=reply,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether a server takes requests now, and its own word for it ("ok", "loading model", …)."""

    is_ready: bool
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPiece:
    """A token of a text: its id and its bytes."""

    id: int
    piece: bytes


def content_of(reply: Any) -> str:
    """The text of an answer or event. Raises `InvalidReply` if there is none."""
    if not isinstance(reply, Mapping):
        raise InvalidReply(f"expected a JSON object, got {type(reply).__name__}")
    content = reply.get("content")
    if not isinstance(content, str):
        names = ", ".join(sorted(str(name) for name in reply)[:8])
        raise InvalidReply(f"no text in `content`; the answer has: {names or 'nothing'}")
    return content


def slot_of(reply: Mapping[str, Any]) -> int:
    """The slot: the first that is present of `id_slot`, `slot_id`; -1 if neither is.

    NOTE: slot 0 is a slot, so presence decides, not truth.
    """
    for name in ("id_slot", "slot_id"):
        slot = count_of(reply.get(name))
        if slot is not None:
            return slot
    return -1


def count_of(value: Any) -> int | None:
    """A whole number from 0 on; None for everything else."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and value >= 0 else None


def ids_of(reply: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids in an answer or event; none if it tells none, or something else."""
    told = reply.get("tokens")
    ids = [count_of(each) for each in told] if isinstance(told, list) else []
    return tuple(each for each in ids if each is not None) if None not in ids else ()


def tokens_of(reply: Mapping[str, Any]) -> list[TokenPiece | int]:
    """The tokens of a `/tokenize` answer: ids, or ids with pieces. Raises `InvalidReply`."""
    tokens = reply.get("tokens")
    if not isinstance(tokens, list):
        raise InvalidReply("no list in `tokens`")
    return [_token(each) for each in tokens]


def _token(token: Any) -> TokenPiece | int:
    number = count_of(token.get("id") if isinstance(token, Mapping) else token)
    if number is None:
        raise InvalidReply("`tokens` holds something that is no token")
    if not isinstance(token, Mapping):
        return number
    piece: Any = token.get("piece")
    text = _text(piece).encode(errors="replace")
    return TokenPiece(id=number, piece=bytes(piece) if is_bytes(piece) else text)


def _stop_type(reply: Mapping[str, Any]) -> StopType:
    """Today's `stop_type`, or the flags of 2023 (of which several can be true at once)."""
    for kind in _STOP_TYPES:
        if reply.get("stop_type") == kind:
            return kind
    for kind in _STOP_TYPES:
        if reply.get(f"stopped_{kind}") is True:
            return kind
    return "none"


_STOP_TYPES: tuple[StopType, ...] = ("word", "eos", "limit")


def _reused(timings: Timings, evaluated: int) -> int:
    """Prompt tokens that were not evaluated again.

    NOTE: not the wire's `tokens_cached`, which is the length of prompt and answer in the cache.
    """
    if timings.cache_n is not None:
        return timings.cache_n
    return 0 if timings.prompt_n is None else max(0, evaluated - timings.prompt_n)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
