"""The repetition penalty that grows: what counts as a repetition, and what it costs."""

from __future__ import annotations

import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libertai_engine.sampling.dry import (
    MAX_LENGTH,
    RepetitionWindow,
    has_repetition_penalty,
    penalize_repetitions,
)
from libertai_engine.sampling.sampler import SampledToken, Sampler, SamplerState
from libertai_engine.sampling_params import SamplingParams

DRY = SamplingParams(temperature=0.0, repeat_penalty=1.0, dry_multiplier=1.0)
LETTERS = "abcdefgh\n"


def letter(token: int) -> bytes:
    """Token n is letter n."""
    return LETTERS[token].encode()


def ids_of(text: str) -> list[int]:
    return [LETTERS.index(char) for char in text]


def repetitions(
    text: str, shortest: int = 1, *, size: int = 100, breakers: tuple[str, ...] = ()
) -> dict[str, int]:
    """Letter to the length of the repetition that it would go on with."""
    window = RepetitionWindow(size, ids_of(text), breakers, letter)
    ids, lengths = window.repetitions(shortest)
    return {LETTERS[token]: length for token, length in zip(ids, lengths, strict=True)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("a", {}),
        ("ab", {}),
        ("aba", {"b": 1}),
        ("abcab", {"c": 2}),
        # After "abc" came c, after "c" alone b, after "bc" g: the longest of each counts.
        ("abccbcgabc", {"c": 3, "b": 1, "g": 2}),
        ("aaaa", {"a": 3}),
        ("abab", {"a": 2}),
    ],
)
def test_the_end_is_looked_for_in_what_was_said(text: str, expected: dict[str, int]) -> None:
    """Repetitions may overlap with the end itself."""
    assert repetitions(text) == expected


def test_only_long_ones_count() -> None:
    """Shorter than asked for is none; with 0 every token that was said is one."""
    assert repetitions("abc", 0) == {"b": 0, "c": 0}
    assert repetitions("abccbcgabc", 2) == {"c": 3, "g": 2}
    assert repetitions("abccbcgabc", 4) == {}


def test_only_the_latest_tokens_are_looked_at() -> None:
    """In "bcab" "b" is followed by c; "ab" lies outside of it."""
    assert repetitions("abcab", size=4) == {"c": 1}
    assert repetitions("abcab", size=2) == {}


@pytest.mark.parametrize(
    ("text", "breakers", "expected"),
    [
        ("ab\nab", ("\n",), {}),  # what followed "ab" is the breaker itself
        ("abcd\nabc", ("\n",), {"d": 3}),
        ("a\nbca\nb", ("\n",), {"c": 1}),
        ("abcab", ("b",), {}),
        # "gh" ends a repetition only where both letters stand together.
        ("aghbcaghb", ("gh",), {"c": 1}),
        ("aghbcaghb", ("hg",), {"c": 4}),
        ("aghbcaghb", ("gh", "c"), {}),
    ],
)
def test_breakers_end_repetitions(
    text: str, breakers: tuple[str, ...], expected: dict[str, int]
) -> None:
    """No repetition goes beyond one, of one token or of several, and they may be repeated."""
    assert repetitions(text, breakers=breakers) == expected


def slow_repetitions(text: str, shortest: int, size: int, breaker: str) -> dict[str, int]:
    """As it is defined, on strings."""
    last = text.rfind(breaker) + len(breaker) if breaker in text else 0
    tail, text = text[last:], text[-size:]
    tail = tail[-size:]
    found: dict[str, int] = {}
    for length in range(1, len(tail) + 1):
        for start in range(len(text) - length):
            following = text[start + length]
            if text[start : start + length] == tail[-length:] and following != breaker:
                found[following] = length
    return {char: length for char, length in found.items() if length >= shortest}


@settings(deadline=None, max_examples=300)
@given(
    st.text("ab\n", max_size=24),
    st.text("ab\n", max_size=8),
    st.integers(1, 4),
    st.integers(1, 30),
)
def test_any_sequence_read_at_once_or_token_by_token(
    prompt: str, answer: str, shortest: int, size: int
) -> None:
    """Next to the definition on strings."""
    window = RepetitionWindow(size, ids_of(prompt), ["\n"], letter)
    for token in ids_of(answer):
        window.push(token)
    ids, lengths = window.repetitions(shortest)
    found = {LETTERS[token]: length for token, length in zip(ids, lengths, strict=True)}
    assert found == slow_repetitions(prompt + answer, shortest, size, "\n")


def test_the_penalty_grows_with_the_repetition() -> None:
    """multiplier * base ^ (length - allowed): 3 * 2^(3-2) for c, 3 * 2^0 for g, none for b."""
    params = SamplingParams(dry_multiplier=3.0, dry_base=2.0, dry_allowed_length=2)
    window = RepetitionWindow(64, ids_of("abccbcgabc"), (), letter)
    logits = torch.tensor([[1.0] * 7, [1.0] * 7])
    penalize_repetitions(logits, [(1, window, params)])
    assert logits.tolist() == [[1.0] * 7, [1.0, 1.0, -5.0, 1.0, 1.0, 1.0, -2.0]]


def test_long_repetitions_make_no_infinities() -> None:
    """A ban stays a ban, a number a number."""
    params = SamplingParams(dry_multiplier=1e9, dry_base=1e9)
    window = RepetitionWindow(500, ids_of("ab" * 200), (), letter)
    logits = torch.tensor([[1.0, 1.0], [-math.inf, 1.0]])
    penalize_repetitions(logits, [(0, window, params), (1, window, params)])
    assert logits[0].isfinite().all() and logits[0, 0] < -1e38
    assert logits[1].tolist() == [-math.inf, 1.0]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(dry_multiplier=1.0, dry_window=0),
        SamplingParams(dry_multiplier=1.0, samplers=("penalties", "temperature")),
    ],
)
def test_it_is_off_unless_asked_for(params: SamplingParams) -> None:
    """No window is kept then."""
    assert not has_repetition_penalty(params)


def test_a_sequence_stops_repeating_itself() -> None:
    """The model wants a b c again and again; where a b is said again, c has become too dear."""
    state = SamplerState(
        DRY,
        prompt_ids=ids_of("abcd"),
        seed=0,
        context_size=64,
        eos_ids=(),
        newline_id=None,
        piece_of=letter,
    )
    wanted = torch.full((4, 4), 0.0)
    wanted[0, 1] = wanted[1, 2] = wanted[2, 0] = wanted[3, 0] = 0.9
    text = "abcd"
    for _ in range(4):
        (token,) = Sampler().sample(wanted[state_end(text)][None].clone(), [state])
        assert isinstance(token, SampledToken)
        state.accept(token.token_id)
        text += LETTERS[token.token_id]
    assert text == "abcdabab"


def state_end(text: str) -> int:
    return LETTERS.index(text[-1])


def test_a_long_prompt_that_repeats_itself_is_read_in_linear_time() -> None:
    """This is done while requests are taken in, and others wait meanwhile."""
    size = 1 << 17
    begun = time.process_time()
    window = RepetitionWindow(size, [7] * size, ["\n"], letter)
    assert time.process_time() - begun < 0.4
    assert window.repetitions(2)[1].tolist() == [MAX_LENGTH]
