"""The client on real servers of both generations, one request at a time.

In: recordings of the December-2023 server and of today's. Out: what `Completion` must say.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = [
    pytest.mark.vcr,
    pytest.mark.block_network,
    pytest.mark.parametrize("server", ["dec2023", "today"], indirect=True),
]
PROMPT = "Return the number of"
GREEDY: dict[str, Any] = {
    **{"temperature": 0, "repeat_penalty": 1.0},
    **{"ignore_eos": True, "cache_prompt": False},
}
EVERY_TOKEN = 100.0
END_OF_TEXT = {"dec2023": "</s>", "today": "<|im_end|>"}


def test_complete_ends_at_the_limit_and_says_so(caller: Any) -> None:
    """Every field of a whole answer is read, whatever the server calls it."""
    answer = caller.complete(PROMPT, max_tokens=8, **GREEDY)
    assert answer.content.startswith(" ")
    assert (answer.stop_type, answer.stopping_word) == ("limit", "")
    assert answer.slot_id >= 0
    assert answer.tokens_predicted == 8
    assert answer.tokens_evaluated == answer.timings.prompt_n > 0
    assert answer.tokens_cached == 0
    assert answer.truncated is False
    assert answer.model
    assert answer.timings.predicted_per_second > 0
    assert answer.raw["content"] == answer.content


def test_stream_is_the_whole_answer_in_pieces(caller: Any) -> None:
    """Chunks concatenate to the content of the same request asked whole; the last one is final."""
    whole = caller.complete(PROMPT, max_tokens=8, **GREEDY)
    *pieces, last = caller.stream(PROMPT, max_tokens=8, **GREEDY)
    assert len(pieces) > 1
    assert all(piece.final is None for piece in pieces)
    assert "".join(piece.content for piece in [*pieces, last]) == whole.content
    assert last.final is not None
    assert last.final.content == whole.content
    assert last.final.stop_type == whole.stop_type
    assert last.final.tokens_predicted == whole.tokens_predicted


def test_stop_word_ends_the_answer_before_the_word(caller: Any) -> None:
    """The word that stopped is named and is not in the text, streamed or not."""
    whole = caller.complete(PROMPT, max_tokens=40, **GREEDY)
    word = whole.content.split()[3]
    answer = caller.complete(PROMPT, max_tokens=40, stop=["never to be seen", word], **GREEDY)
    assert (answer.stop_type, answer.stopping_word) == ("word", word)
    assert answer.content == whole.content[: whole.content.index(word)]
    chunks = caller.stream(PROMPT, max_tokens=40, stop=["never to be seen", word], **GREEDY)
    assert chunks[-1].final.stopping_word == word
    # NOTE: while a word may be forming, the 2023 server holds back all that it has not sent, and
    # forgets it when the word comes: its stream may say less than its whole answer.
    assert answer.content.startswith(chunks[-1].final.content)


def test_end_of_text_is_told_from_the_limit(caller: Any, server: Any) -> None:
    """A model that ends by itself gives `eos`, here at once because that token is forced."""
    end = caller.call("tokenize", END_OF_TEXT[server.name])[-1]
    forced = {**GREEDY, "ignore_eos": False, "logit_bias": [[end, EVERY_TOKEN]]}
    answer = caller.complete(PROMPT, max_tokens=8, **forced)
    assert (answer.stop_type, answer.content) == ("eos", "")


def test_logit_bias_forces_and_forbids_a_token(caller: Any) -> None:
    """A bias on one id makes it appear, `False` on the same id makes it vanish."""
    usual = caller.complete(PROMPT, max_tokens=4, **GREEDY).content
    (comma,) = caller.call("tokenize", ",")[-1:]
    forced = caller.complete(PROMPT, max_tokens=4, logit_bias=[[comma, EVERY_TOKEN]], **GREEDY)
    assert set(forced.content) == {","}
    start = len(caller.call("tokenize", PROMPT))
    first = caller.call("tokenize", PROMPT + usual)[start]
    forbidden = caller.complete(PROMPT, max_tokens=4, logit_bias=[[first, False]], **GREEDY)
    assert forbidden.content != usual


def test_probabilities_come_with_the_pieces(caller: Any) -> None:
    """`n_probs` gives so many candidates for each token, best first: the greedy one leads."""
    # NOTE: today's server tells probabilities before any token is banned.
    chunks = caller.stream(PROMPT, max_tokens=4, n_probs=3, **{**GREEDY, "ignore_eos": False})
    entries = [entry for chunk in chunks for entry in chunk.probs]
    assert b"".join(entry.chosen.piece for entry in entries).decode() == chunks[-1].final.content
    assert tuple(entries) == chunks[-1].final.probs
    for entry in entries:
        values = [candidate.prob for candidate in entry.top]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert values[0] > 0
        assert sum(values) < 1.0001
        assert entry.top[0] == entry.chosen


def test_every_option_reaches_the_server(caller: Any) -> None:
    """What was asked under our names comes back in the server's own list of settings."""
    asked: dict[str, Any] = {"temperature": 0.5, "top_k": 7, "top_p": 0.75, "min_p": 0.25}
    asked |= {"typical_p": 0.875, "repeat_penalty": 1.25, "repeat_last_n": 9, "seed": 42}
    asked |= {"presence_penalty": 0.5, "frequency_penalty": 0.25, "n_keep": 3, "mirostat": 0}
    asked |= {"mirostat_tau": 4.5, "mirostat_eta": 0.5, "ignore_eos": True, "stop": ["zebra"]}
    answer = caller.complete(PROMPT, max_tokens=5, cache_prompt=False, **asked)
    settings = answer.generation_settings
    settings.setdefault("temperature", settings.get("temp"))
    # NOTE: the 2023 server reports its own n_keep there, never the request's.
    asked.pop("n_keep")
    assert {name: settings[name] for name in asked} == asked
    assert settings["n_predict"] == 5


def test_several_prompts_are_answered_in_order(caller: Any, server: Any, vcr: Any) -> None:
    """They get the answers that each gets alone; of the two servers, today's is asked once."""
    prompts = [PROMPT, "If the argument", "This module"]
    alone = [caller.complete(each, max_tokens=6, **GREEDY) for each in prompts]
    together = caller.call("complete_many", prompts, max_tokens=6, **GREEDY)
    assert [each.content for each in together] == [each.content for each in alone]
    asked = [json.loads(request.body)["prompt"] for request in vcr.requests if request.body]
    assert asked[3:] == (prompts if server.name == "dec2023" else [prompts])


def test_models(caller: Any, server: Any) -> None:
    """Both tell the name they were given; only today's tells sizes."""
    (model,) = caller.call("models")
    name = {"dec2023": "reference", "today": "demo"}[server.name]
    assert (model.id, model.owned_by) == (name, "llamacpp")
    assert (model.train_context_size is None) == (server.name == "dec2023")


def test_token_ids_are_a_prompt_too(caller: Any) -> None:
    """Text and its ids are tokenised alike, and detokenising gives the text back."""
    text = "Wörld 😀, hello"
    ids = caller.call("tokenize", text)
    assert ids and all(isinstance(number, int) for number in ids)
    assert caller.call("detokenize", ids).strip() == text
