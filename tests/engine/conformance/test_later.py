"""Samplers that the server of 2023 did not have, against what today's llama-server reported.

In: `cassettes/reference/later.json`. Its arithmetic is more exact than that of 2023, so the numbers
are compared to 1e-4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine.conformance.findings import probability_gap
from tests.engine.conformance.recordings import Recording, load_recordings, serving_reference
from tests.engine.serving import Running

RECORDINGS = load_recordings("later.json")
LATER = (
    "min_keep dynatemp_range dynatemp_exponent top_n_sigma xtc_probability xtc_threshold "
    "dry_multiplier dry_base dry_allowed_length dry_penalty_last_n dry_sequence_breakers"
).split(" ")


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving_reference(512, 1) as reference_server:
        yield reference_server


def probabilities(server: Running, body: dict[str, Any]) -> list[dict[str, Any]]:
    reply = server.post("/completion", body)
    found: list[dict[str, Any]] = reply.json["completion_probabilities"][0]["probs"]
    return found


def their_probabilities(recording: Recording) -> list[dict[str, Any]]:
    """Those of tokens that could be drawn, best first."""
    tops = recording.events[0]["completion_probabilities"][0]["top_probs"]
    return [{"tok_str": each["token"], "prob": each["prob"]} for each in tops if each["prob"] > 0]


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_the_distribution_is_theirs(server: Running, recording: Recording) -> None:
    """Token by token.

    NOTE: every filter of ours leaves `n_probs` tokens, as on the server of 2023, so no more are
    asked for than theirs left.
    """
    theirs = their_probabilities(recording)
    ours = probabilities(server, {**recording.body, "n_probs": len(theirs)})
    gap = probability_gap(theirs, ours)
    assert gap is not None and gap < 1e-4


def test_every_option_matters(server: Running) -> None:
    """Without them nearly all of these requests would have other probabilities."""
    same = set()
    for recording in RECORDINGS:
        names = recording.body.keys() - {*LATER, "samplers"}
        plain = {name: recording.body[name] for name in names} | {"n_probs": 1}
        best = probabilities(server, plain)
        gap = probability_gap(their_probabilities(recording)[:1], best)
        if gap is not None and gap < 1e-2:
            same.add(recording.name)
    # Either nothing may go, or the third prompt leaves too many tokens that are as likely.
    keeping = {f"xtc_min_keep/{number}" for number in range(3)}
    assert same == keeping | {"xtc/2", "min_keep/2"}


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_the_settings_are_theirs(server: Running, recording: Recording) -> None:
    """Names, defaults and values; the order of samplers apart from the one that they dropped."""
    theirs = recording.events[0]["generation_settings"]
    ours = server.post("/completion", recording.body).json["generation_settings"]
    for name in LATER:
        is_number = isinstance(theirs[name], float)
        assert ours[name] == (pytest.approx(theirs[name]) if is_number else theirs[name]), name
    assert [name for name in ours["samplers"] if name != "tfs_z"] == theirs["samplers"]
