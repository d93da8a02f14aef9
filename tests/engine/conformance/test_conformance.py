"""Our server against what the real one of December 2023 answered, request by request.

`differences.py` is the only list of excuses. Each has to show, and the tests behind the table prove
what it says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from libertai_engine.sampling.sampler import SampledToken, Sampler, SamplerState
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.wire.format import token_text
from libertai_engine.wire.parse import Limits, parse_completion
from tests.engine.conformance.differences import ADDITIONAL_KEYS, DIFFERENCES, Difference
from tests.engine.conformance.findings import (
    Finding,
    additional_keys,
    compare,
    first_probabilities,
    probability_gap,
)
from tests.engine.conformance.half_precision import load_half_precision_model
from tests.engine.conformance.recordings import (
    MODEL,
    Recording,
    load_recordings,
    replay,
    same_question,
    serving_reference,
)
from tests.engine.conformance.report import MEASURED, PAGE, render
from tests.engine.serving import Reply, Running

CONTEXT = 512
RECORDINGS = load_recordings()
BY_NAME = {recording.name: recording for recording in RECORDINGS}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving_reference(CONTEXT) as reference_server:
        yield reference_server


@pytest.fixture(scope="module")
def replies(server: Running) -> dict[str, Reply]:
    """Our answer to every request, asked in the order of the recordings."""
    return {recording.name: replay(recording, server) for recording in RECORDINGS}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(MODEL)


def text_of(reply: Reply) -> str:
    events = [reply.json] if reply.headers["content-type"].startswith("application") else None
    return "".join(event["content"] for event in events or reply.events)


def test_all_recordings_are_here() -> None:
    """Each name once, each kind described in the document."""
    assert len(BY_NAME) == len(RECORDINGS) == 161
    assert {recording.kind for recording in RECORDINGS} == set(MEASURED)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_the_answer_is_theirs(recording: Recording, replies: dict[str, Reply]) -> None:
    """Nothing differs that no entry of the table explains."""
    unexplained = [
        finding
        for finding in compare(recording, replies[recording.name])
        if not any(each.explains(recording, finding) for each in DIFFERENCES)
    ]
    assert unexplained == []


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.name)
def test_each_difference_still_shows(difference: Difference, replies: dict[str, Reply]) -> None:
    """An excuse that no longer applies has to go."""
    concerned = [recording for recording in RECORDINGS if difference.concerns(recording)]
    showing = [
        recording
        for recording in concerned
        if any(
            difference.explains(recording, finding)
            for finding in compare(recording, replies[recording.name])
        )
    ]
    assert showing
    assert showing == concerned or not difference.is_certain
    assert not difference.proof or difference.proof in globals()


def test_additional_keys_are_listed(replies: dict[str, Reply]) -> None:
    """Ours may say more, but nothing that is not written down, and nothing is written for long."""
    found = {
        key
        for recording in RECORDINGS
        for key in additional_keys(recording, replies[recording.name])
    }
    assert found == set(ADDITIONAL_KEYS)


def test_the_document_is_current() -> None:
    """`python -m tests.engine.conformance.report` writes it anew."""
    assert PAGE.read_text(encoding="utf-8") == render(RECORDINGS)


def test_a_difference_is_found() -> None:
    """The comparison would notice: another text, count, setting, probability, a missing key."""
    recording = BY_NAME["dist/plain/0"]
    headers = {"content-type": "text/event-stream"}
    same = Reply(200, headers, recording.answer.strip().encode() + b"\n\n")
    assert compare(recording, same) == []
    changes = {
        "text": (' name"', ' same"'),
        "tokens_predicted": ('"tokens_predicted":4', '"tokens_predicted":5'),
        "generation_settings.top_k": ('"top_k":0', '"top_k":1'),
        "keys of timings": ('"prompt_per_second"', '"prompt_speed"'),
        "stopped_limit": ('"stopped_limit":true', '"stopped_limit":1'),
        "first distribution": ('"prob":0.2454', '"prob":0.2457'),
    }
    for aspect, (old, new) in changes.items():
        assert old in recording.answer, aspect
        changed = Reply(200, headers, same.body.replace(old.encode(), new.encode()))
        assert aspect in {finding.aspect for finding in compare(recording, changed)}


def test_probabilities_are_compared_by_token() -> None:
    """Order does not matter, values and tokens do."""
    theirs = [{"tok_str": "a", "prob": 0.5}, {"tok_str": "b", "prob": 0.5}]
    assert probability_gap(theirs, theirs[::-1]) == 0
    nearly = [{"tok_str": "a", "prob": 0.501}, {"tok_str": "b", "prob": 0.5}]
    assert probability_gap(theirs, nearly) == pytest.approx(2e-3)
    assert probability_gap(theirs, theirs[:1]) is None
    filtered = [*theirs[:1], {"tok_str": "b", "prob": 0.0}]
    assert probability_gap(filtered, theirs[:1]) == 0


def test_n_predict_is_exact(server: Running) -> None:
    """Asked for N, ours answers N tokens: theirs without the last one."""
    recording = BY_NAME["greedy/5"]
    reply = server.post("/completion", recording.body)
    assert reply.json["tokens_predicted"] == recording.body["n_predict"]
    theirs = recording.events[0]["content"]
    assert theirs.startswith(reply.json["content"]) and theirs != reply.json["content"]


@pytest.mark.parametrize("name", ["mirostat/1", "mirostat/2", "defaults"])
def test_the_told_seed_repeats_the_answer(server: Running, name: str) -> None:
    """The seed in `generation_settings`, given or drawn, is all it takes."""
    body = {**BY_NAME[name].body, "n_predict": 32}
    first = server.post("/completion", body).json
    again = {**body, "seed": first["generation_settings"]["seed"]}
    assert server.post("/completion", again).json["content"] == first["content"]
    others = {server.post("/completion", {**body, "seed": seed}).body for seed in range(3)}
    assert len(others) == 3


def test_every_token_has_its_probabilities(replies: dict[str, Reply]) -> None:
    """One entry a token, in whole answers and over the events of a stream."""
    for recording in RECORDINGS:
        if "n_probs" not in recording.body:
            continue
        reply = replies[recording.name]
        events = reply.events if recording.is_stream else [reply.json]
        entries = [entry for event in events for entry in event["completion_probabilities"]]
        is_ended = events[-1]["stopped_eos"]  # which is a token without text
        assert len(entries) + is_ended == events[-1]["tokens_predicted"]
        # NOTE: characters of several tokens read as their bytes, one by one.
        if all("byte: " not in entry["content"] for entry in entries):
            assert "".join(entry["content"] for entry in entries) == text_of(reply)


def test_half_precision_explains_every_distribution(tokenizer: Tokenizer) -> None:
    """With that server's arithmetic in the model, our filters give its numbers to 1e-4."""
    model = load_half_precision_model()
    found: dict[tuple[int, ...], torch.Tensor] = {}
    gaps = {}
    for recording in RECORDINGS:
        if recording.kind != "dist":
            continue
        request = parse_completion(
            recording.body, tokenizer, Limits(num_slots=2, context_size=CONTEXT)
        ).requests[0]
        if request.prompt_ids not in found:
            with torch.inference_mode():
                logits = model(torch.tensor([request.prompt_ids])).logits  # [1, tokens, vocab]
            found[request.prompt_ids] = logits[:, -1]
        state = SamplerState(
            request.sampling,
            prompt_ids=request.prompt_ids,
            seed=1,
            context_size=CONTEXT,
            eos_ids=tokenizer.eos_ids,
            newline_id=tokenizer.newline_id,
        )
        token = Sampler().sample(found[request.prompt_ids].clone(), [state])[0]
        assert isinstance(token, SampledToken)
        ours = [{"tok_str": token_text(each, tokenizer), "prob": p} for each, p in token.probs]
        gaps[recording.name] = probability_gap(first_probabilities(recording.events), ours)
    assert len(gaps) == 68
    assert {name: gap for name, gap in gaps.items() if gap is None or gap > 1e-4} == {}


def test_cached_and_evaluated_tokens_are_the_prompt(replies: dict[str, Reply]) -> None:
    """Whatever was found in the cache, the numbers add up, and one token is always evaluated."""
    for recording in RECORDINGS:
        if not recording.is_completion:
            continue
        reply = replies[recording.name]
        last = reply.events[-1] if recording.is_stream else reply.json
        timings = last["timings"]
        assert timings["cache_n"] + timings["prompt_n"] == last["tokens_evaluated"]
        assert timings["prompt_n"] >= 1
        assert not timings["cache_n"] or recording.body.get("cache_prompt")


@pytest.mark.parametrize("number", range(9))
def test_streams_send_what_was_held_back(replies: dict[str, Reply], number: int) -> None:
    """A stream's text is that of the whole answer, which that server sent in full, too."""
    whole = BY_NAME[f"stop/{number}"].events[0]["content"]
    assert text_of(replies[f"stop_stream/{number}"]) == whole


def test_without_bos_a_cut_prompt_reads_as_there(server: Running, tokenizer: Tokenizer) -> None:
    """Given the tokens that it kept, our server writes its text and counts its tokens."""
    recording = BY_NAME["context/truncate"]
    theirs = recording.events[0]
    token_ids = tokenizer.encode(recording.body["prompt"], add_special=True)
    kept = token_ids[-theirs["tokens_evaluated"] :]
    ours = server.post("/completion", {**same_question(recording), "prompt": kept}).json
    for key in ("content", "tokens_evaluated", "tokens_cached"):
        assert ours[key] == theirs[key]


def test_a_shift_two_tokens_later_writes_their_text() -> None:
    """The one character of three tokens before the shift is what its list of tokens missed."""
    with serving_reference(CONTEXT + 2) as roomier:
        for name in ("context/shift", "context/shift_keep"):
            recording = BY_NAME[name]
            theirs = recording.events[0]["content"]
            assert sum(len(char.encode()) - 1 for char in theirs) == 2
            ours = roomier.post("/completion", same_question(recording)).json
            assert (ours["content"], ours["truncated"]) == (theirs, True)


def test_a_finished_grammar_ends_the_answer(server: Running) -> None:
    """Their text and their count, without a step for what is forced or for the end."""
    recording = BY_NAME["grammar/yesno"]
    theirs = recording.events[0]
    ours = server.post("/completion", same_question(recording)).json
    for key in ("content", "tokens_predicted", "stopped_eos"):
        assert ours[key] == theirs[key]
    assert ours["tokens_cached"] == ours["tokens_evaluated"] == theirs["tokens_cached"] - 2


def test_text_behind_a_control_token_is_read_as_the_model_reads_it(server: Running) -> None:
    """As transformers does with the model's tokenizer.json."""
    from transformers import AutoTokenizer

    body: dict[str, Any] = BY_NAME["tokenize/9"].body
    expected = AutoTokenizer.from_pretrained(MODEL).encode(
        body["content"], add_special_tokens=False
    )
    assert server.post("/tokenize", body).json == {"tokens": expected}


def test_a_finding_says_what_differs() -> None:
    """What a failing comparison shows: the aspect and both values."""
    recording = BY_NAME["tokenize/0"]
    reply = Reply(200, {"content-type": recording.content_type}, b'{"tokens": [1]}')
    theirs = recording.events[0]["tokens"]
    assert compare(recording, reply) == [Finding("tokens", theirs, [1])]
