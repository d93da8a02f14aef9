"""Everything in which two answers to one question differ.

In: a `Recording` and our `Reply`. Out: `Finding`s: an aspect and its two values. What cannot be the
same in two runs of one server (times) is only checked for being there; everything else is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.engine.conformance.recordings import Recording
from tests.engine.serving import Reply

RELATIVE, ABSOLUTE = 1e-3, 1e-5  # what two probabilities may differ by
SETTING = 1e-6  # that server kept settings in single precision
COUNTS = ("prompt_n", "predicted_n")
NESTED = ("generation_settings", "timings", "completion_probabilities")


@dataclass(frozen=True)
class Finding:
    """One difference."""

    aspect: str
    theirs: Any
    ours: Any


def compare(recording: Recording, reply: Reply) -> list[Finding]:
    """All differences of an answer."""
    if reply.status != recording.status:
        return [Finding("status", recording.status, reply)]
    found = list(_differing("content type", recording.content_type, reply.headers["content-type"]))
    if not recording.is_completion:
        return found + list(_compare_objects("", recording.events[0], reply.json))
    ours = reply.events if recording.is_stream else [reply.json]
    return found + list(_compare_completions(recording, recording.events, ours))


def additional_keys(recording: Recording, reply: Reply) -> Iterator[tuple[str, str]]:
    """Keys that only our answer has, each with the object it is in."""
    if reply.status != recording.status:
        return
    ours = reply.events if recording.is_stream else [reply.json]
    for place, theirs, mine in _pairs_of_objects(recording.path, recording.events, ours):
        yield from ((place, key) for key in mine if key not in theirs)


def probability_gap(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> float | None:
    """The largest relative difference of two distributions; None if they are of different tokens.

    Both are lists of `{"tok_str", "prob"}`; a token of which theirs says 0 was filtered out there.
    Tokens that are equally likely may stand in any order.
    """
    left = {each["tok_str"]: each["prob"] for each in theirs if each["prob"] > 0}
    right = {each["tok_str"]: each["prob"] for each in ours}
    if set(left) != set(right):
        return None
    gaps = [
        abs(right[token] / left[token] - 1) if abs(right[token] - left[token]) > ABSOLUTE else 0.0
        for token in left
    ]
    return max(gaps)


def first_probabilities(events: list[Any]) -> list[dict[str, Any]]:
    """The distribution of the first token of a stream."""
    entries = next(event["completion_probabilities"] for event in events)
    probs: list[dict[str, Any]] = entries[0]["probs"]
    return probs


def _compare_completions(
    recording: Recording, theirs: list[Any], ours: list[Any]
) -> Iterator[Finding]:
    yield from _differing("pieces", _pieces(theirs), _pieces(ours))
    yield from _differing("text", "".join(_pieces(theirs)), "".join(_pieces(ours)))
    for place, left, right in _pairs_of_objects(recording.path, theirs, ours):
        missing = sorted(key for key in left if key not in right)
        yield from _differing(f"keys of {place}", [], missing)
    yield from _compare_objects("", _flat(theirs[-1]), _flat(ours[-1]))
    yield from _compare_objects(
        "generation_settings.", theirs[-1]["generation_settings"], ours[-1]["generation_settings"]
    )
    counts = [{key: each["timings"][key] for key in COUNTS} for each in (theirs[-1], ours[-1])]
    yield from _compare_objects("timings.", *counts)
    yield from _compare_probabilities(recording, theirs, ours)


def _compare_probabilities(
    recording: Recording, theirs: list[Any], ours: list[Any]
) -> Iterator[Finding]:
    if not recording.body.get("n_probs"):
        return
    at_end = [len(each[-1]["completion_probabilities"]) for each in (theirs, ours)]
    yield from _differing("number of probabilities at the end", *at_end)
    if recording.is_stream:
        gap = probability_gap(first_probabilities(theirs), first_probabilities(ours))
        if gap is None or gap > RELATIVE:
            yield Finding("first distribution", first_probabilities(theirs), gap)


def _pairs_of_objects(
    path: str, theirs: list[Any], ours: list[Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Objects of the two answers that have to have the same keys, by name."""
    if len(theirs) > 1 and len(ours) > 1:
        yield "a stream's event", theirs[0], ours[0]
    left, right = theirs[-1], ours[-1]
    yield path, left, right
    for key in ("generation_settings", "timings"):
        if key in left:
            yield key, left[key], right[key]


def _flat(answer: dict[str, Any]) -> dict[str, Any]:
    """The values of an answer that are compared as they are; text is put together elsewhere."""
    return {key: answer[key] for key in answer if key not in (*NESTED, "content")}


def _compare_objects(
    prefix: str, theirs: dict[str, Any], ours: dict[str, Any]
) -> Iterator[Finding]:
    for key, value in theirs.items():
        if key in ours:
            yield from _differing(f"{prefix}{key}", value, ours[key])
        else:
            yield Finding(f"{prefix}{key}", value, "missing")


def _differing(aspect: str, theirs: Any, ours: Any) -> Iterator[Finding]:
    if not _are_same(theirs, ours):
        yield Finding(aspect, theirs, ours)


def _are_same(theirs: Any, ours: Any) -> bool:
    if isinstance(theirs, float) and isinstance(ours, (int, float)):
        return abs(theirs - ours) <= SETTING * max(1.0, abs(theirs))
    return type(theirs) is type(ours) and bool(theirs == ours)


def _pieces(events: list[Any]) -> list[str]:
    """Texts in the order sent, those events left out that say nothing yet."""
    return [event["content"] for event in events if event["content"]]
