"""What a server tells of its slots and models. Counts it leaves out become None, never an error.

In: the JSON of `/slots` and `/v1/models`, of today's llama-server or ours (2023's knows the latter
only). Out: frozen dataclasses; `InvalidReply` if the JSON is about something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from libertai_llm.checks import INT32_MAX, check_integer, check_text
from libertai_llm.errors import InvalidReply
from libertai_llm.probs import finite
from libertai_llm.types import count_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFile:
    """A slot that was saved to a file of the server, or restored from one."""

    slot_id: int
    filename: str
    num_tokens: int
    num_bytes: int
    milliseconds: float | None = None

    @classmethod
    def from_wire(cls, reply: Mapping[str, Any]) -> SlotFile:
        """From the answer to `save` or `restore`."""
        tokens, size, times = reply.get("n_saved"), reply.get("n_written"), reply.get("timings")
        if tokens is None:
            tokens, size = reply.get("n_restored"), reply.get("n_read")
        times = times if isinstance(times, Mapping) else {}
        spent = (finite(times.get(f"{action}_ms")) for action in ("save", "restore"))
        return cls(
            slot_id=_required("id_slot", reply.get("id_slot")),
            filename=str(reply.get("filename", "")),
            num_tokens=_required("n_saved", tokens),
            num_bytes=_required("n_written", size),
            milliseconds=next((each for each in spent if each is not None), None),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasedSlot:
    """A slot that was emptied; `num_tokens` were in it."""

    slot_id: int
    num_tokens: int

    @classmethod
    def from_wire(cls, reply: Mapping[str, Any]) -> ErasedSlot:
        """From the answer to `erase`."""
        return cls(
            slot_id=_required("id_slot", reply.get("id_slot")),
            num_tokens=_required("n_erased", reply.get("n_erased")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """A slot as it is now. None: not told (today's server tells nothing of a slot never used).

    `num_tokens` are in its context, whether of a request that runs or kept for the next one.
    """

    slot_id: int
    is_processing: bool
    context_size: int | None = None
    num_tokens: int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_wire(cls, item: Any) -> SlotState:
        """From one object of `GET /slots`."""
        if not isinstance(item, Mapping):
            raise InvalidReply("`/slots` holds something that is no slot")
        # NOTE: what we call `n_past` is `n_prompt_tokens` to today's server.
        tokens = count_of(item.get("n_past"))
        return cls(
            slot_id=_required("id", item.get("id")),
            is_processing=item.get("is_processing") is True,
            context_size=count_of(item.get("n_ctx")),
            num_tokens=count_of(item.get("n_prompt_tokens")) if tokens is None else tokens,
            raw=item,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model that a server answers with. None: not told.

    `context_size` is that of one slot, `train_context_size` what the model was trained for.
    """

    id: str
    owned_by: str = ""
    created: int | None = None
    context_size: int | None = None
    train_context_size: int | None = None
    num_parameters: int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_wire(cls, item: Any) -> ModelInfo:
        """From one object of `GET /v1/models`."""
        if not isinstance(item, Mapping) or not isinstance(item.get("id"), str):
            raise InvalidReply("`data` holds something that is no model")
        meta = item.get("meta")
        meta = meta if isinstance(meta, Mapping) else {}
        owner = item.get("owned_by")
        return cls(
            id=item["id"],
            owned_by=owner if isinstance(owner, str) else "",
            created=count_of(item.get("created")),
            context_size=count_of(meta.get("n_ctx")),
            train_context_size=count_of(meta.get("n_ctx_train")),
            num_parameters=count_of(meta.get("n_params")),
            raw=item,
        )


def slots_of(reply: Any) -> list[SlotState]:
    """All slots of a `GET /slots` answer."""
    if not isinstance(reply, list):
        raise InvalidReply("no list of slots")
    return [SlotState.from_wire(each) for each in reply]


def models_of(reply: Mapping[str, Any]) -> list[ModelInfo]:
    """All models of a `GET /v1/models` answer."""
    listed = reply.get("data")
    if not isinstance(listed, list):
        raise InvalidReply("no list in `data`")
    return [ModelInfo.from_wire(each) for each in listed]


def slot_path(slot: Any, action: str) -> str:
    """The route of an action. Raises `InvalidOption`."""
    return f"/slots/{check_integer('slot', slot, 0, INT32_MAX)}?action={action}"


def slot_file_body(filename: Any) -> dict[str, Any]:
    """The body of `save` and `restore`. Raises `InvalidOption`."""
    return {"filename": check_text("filename", filename)}


def _required(name: str, value: Any) -> int:
    number = count_of(value)
    if number is None:
        raise InvalidReply(f"no number in `{name}`")
    return number
