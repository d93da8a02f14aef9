"""One running request: what is shown when, how it ends, and what is counted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libertai_engine.sampling.sampler import SampledToken
from libertai_engine.sampling_params import SamplingParams
from libertai_engine.sequence import Delta, FinishReason, Request, Sequence
from libertai_engine.text.tokenizer import Tokenizer
from tests.fakes import tiny_tokenizer

CONTEXT_SIZE = 512


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tiny_tokenizer())


def run(
    tokenizer: Tokenizer,
    token_ids: list[int],
    *,
    context_size: int = CONTEXT_SIZE,
    prompt_ids: tuple[int, ...] = (1, 5),
    max_tokens: int | None = None,
    stop: tuple[str, ...] = (),
    sampling: SamplingParams | None = None,
) -> list[Delta]:
    """Feed tokens until the sequence ends (or they run out)."""
    request = Request(
        prompt_ids=prompt_ids,
        max_tokens=max_tokens,
        stop=stop,
        sampling=sampling or SamplingParams(seed=0),
    )
    sequence = Sequence(request, tokenizer, context_size)
    sequence.place(3, num_cached=1)
    deltas = []
    for token_id in token_ids:
        deltas.append(sequence.accept(SampledToken(token_id, ())))
        if sequence.finish:
            break
    return deltas


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def ids_of(deltas: list[Delta]) -> list[int]:
    return [token.token_id for delta in deltas for token in delta.tokens]


def test_end_of_sequence(tokenizer: Tokenizer) -> None:
    """The end token ends it, adds no text, is counted, and is not among the shown tokens."""
    ids = tokenizer.encode("hello", add_special=False)
    deltas = run(tokenizer, [*ids, 2])
    finish = deltas[-1].finish
    assert finish is not None and finish.reason is FinishReason.EOS
    assert text_of(deltas) == tokenizer.decode(ids)
    assert ids_of(deltas) == ids
    assert finish.num_generated == len(ids) + 1
    assert finish.num_in_cache == 2 + len(ids)
    assert (finish.slot, finish.num_cached, finish.num_prompt_tokens) == (3, 1, 2)


def test_ignored_end_of_sequence_is_a_token_like_any_other(tokenizer: Tokenizer) -> None:
    """With `ignore_eos` an end token that is forced anyway does not end the sequence."""
    deltas = run(tokenizer, [2, 2, 2], sampling=SamplingParams(seed=0, ignore_eos=True))
    assert len(deltas) == 3 and deltas[-1].finish is None


@pytest.mark.parametrize("max_tokens", [1, 2, 5])
def test_the_number_of_tokens_is_exact(tokenizer: Tokenizer, max_tokens: int) -> None:
    """`max_tokens` is met to the token."""
    ids = tokenizer.encode("one two three four five", add_special=False)
    finish = run(tokenizer, ids, max_tokens=max_tokens)[-1].finish
    assert finish is not None and finish.reason is FinishReason.LIMIT
    assert finish.num_generated == max_tokens and not finish.truncated


def test_a_character_may_be_finished_beyond_the_limit(tokenizer: Tokenizer) -> None:
    """A limit inside a multi-byte character waits for its last byte, as documented."""
    ids = tokenizer.encode("\N{OWL}", add_special=False)[-4:]
    deltas = run(tokenizer, [*ids, *ids], max_tokens=1)
    finish = deltas[-1].finish
    assert finish is not None and finish.num_generated == 4
    assert text_of(deltas) == "\N{OWL}"


def test_a_character_that_never_ends_ends_the_sequence(tokenizer: Tokenizer) -> None:
    """Broken bytes go three tokens beyond the limit at most, and are shown as U+FFFD."""
    lead = tokenizer.encode("\N{OWL}", add_special=False)[-4]
    deltas = run(tokenizer, [lead] * 9, max_tokens=1)
    assert deltas[-1].finish is not None and deltas[-1].finish.num_generated <= 4
    assert set(text_of(deltas)) == {"\ufffd"}


def test_the_end_of_the_context_is_a_limit(tokenizer: Tokenizer) -> None:
    """A full lane ends the answer and says that it was cut."""
    ids = tokenizer.encode("one two three four five six", add_special=False)
    finish = run(tokenizer, ids, context_size=6)[-1].finish
    assert finish is not None and finish.reason is FinishReason.LIMIT
    assert finish.truncated and finish.num_generated == 4


def test_a_stop_word_cuts_the_text(tokenizer: Tokenizer) -> None:
    """The word and all behind it stay inside; only tokens that made shown text are listed."""
    ids = tokenizer.encode("one two three", add_special=False)
    deltas = run(tokenizer, ids, stop=("two",))
    finish = deltas[-1].finish
    assert finish is not None
    assert (finish.reason, finish.stop_word) == (FinishReason.WORD, "two")
    assert text_of(deltas) == " one "
    assert tokenizer.decode(ids_of(deltas)).startswith(" one ")


def test_prefill_only_generates_nothing(tokenizer: Tokenizer) -> None:
    """`max_tokens` 0 ends with a limit and no token."""
    sequence = Sequence(Request(prompt_ids=(1, 2, 3), max_tokens=0), tokenizer, CONTEXT_SIZE)
    delta = sequence.finish_prefill()
    assert delta.finish is not None and delta.finish.reason is FinishReason.LIMIT
    assert (delta.text, delta.finish.num_generated, delta.finish.num_in_cache) == ("", 0, 3)
    assert not delta.finish.truncated


texts = st.text(alphabet="ab é\N{OWL}\n", max_size=12)


@settings(max_examples=200, deadline=None)
@given(text=texts, stop=st.lists(texts, max_size=3), limit=st.none() | st.integers(1, 12))
def test_what_was_shown_is_what_was_generated(
    tokenizer: Tokenizer, text: str, stop: list[str], limit: int | None
) -> None:
    """Chunks add up to the decoded tokens, cut at a stop word, and tokens line up with text."""
    ids = tokenizer.encode(text, add_special=False)
    deltas = run(tokenizer, [*ids, 2], max_tokens=limit, stop=tuple(stop))
    shown, listed = text_of(deltas), ids_of(deltas)
    finish = deltas[-1].finish
    assert finish is not None
    assert listed == [*ids, 2][: len(listed)]
    if finish.reason is FinishReason.WORD:
        assert tokenizer.decode(ids).startswith(shown + finish.stop_word)
        assert tokenizer.decode(listed).startswith(shown)
    else:
        assert not any(word in shown for word in stop if word)
        assert tokenizer.decode(listed) == shown
