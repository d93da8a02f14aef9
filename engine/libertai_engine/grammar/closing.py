"""How to complete an answer that has to end soon.

In: where the answer is in its grammar. Out: a few tokens that complete it, found by walking: what
must follow, else the marks that close things in JSON, else the shortest piece of text there is.
The walk is bounded; it may find nothing, and need not find the shortest.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence

import llguidance
import numpy as np

from libertai_engine.grammar.vocabulary import TokenVocabulary

MAX_DETOURS = 100  # states that are looked at beside those of the straight way
MAX_SKIPPED = 5  # tokens at the beginning of a known completion that another token may replace
MAX_CHOICES = 8  # pieces that are tried where no sign of ASCII may stand

# What closes something comes first. Where any text may stand only a quote does: a bracket is text.
CLOSERS = (b"}", b"]", b'"')
QUOTE, LETTER, BRACE = b'"', b"q", b"}"
# What begins something short, or stands between two things.
MARKS = (b"0", b"1", b"@", b".", b":", b",", b"n", b"t", b"f", b"[", b"{")
# What goes on behind one of these makes a number or a word longer.
WORD = frozenset(sign.encode() for sign in string.digits + string.ascii_letters)


def still_completes(
    native: llguidance.LLMatcher, vocabulary: TokenVocabulary, token_ids: Sequence[int]
) -> bool:
    """Whether these tokens lead to where the answer may end. Changes nothing."""
    whole = [*token_ids, vocabulary.end_id]
    return native.validate_tokens(whole) == len(whole)


def find_completion(
    native: llguidance.LLMatcher, vocabulary: TokenVocabulary, limit: int
) -> list[int] | None:
    """At most `limit` tokens behind which the answer may end, if some are found."""
    # Depth first: of each state the ways that are left, the most promising last.
    waiting: list[tuple[llguidance.LLMatcher, list[int], list[int]]] = [(native, [], [])]
    for _ in range(limit + MAX_DETOURS):
        if not waiting:
            return None
        before, tokens, way = waiting.pop()
        state = before.deep_copy()
        if not state.consume_tokens(way):
            continue
        tokens = tokens + way
        if state.is_accepting():
            return tokens
        room = limit - len(tokens)
        ways = [way for way in _ways(state, vocabulary, tokens) if len(way) <= room]
        waiting += [(state, tokens, way) for way in reversed(ways)]
    return None


def _ways(
    state: llguidance.LLMatcher, vocabulary: TokenVocabulary, tokens: list[int]
) -> Iterator[list[int]]:
    """What may come next, the most promising first."""
    must = state.compute_ff_bytes()
    if must:
        forced = state.compute_ff_tokens() or vocabulary.tokenize(must.decode(errors="ignore"))
        if forced and state.validate_tokens(forced) == len(forced):
            yield forced
            return
    is_text = all(_allowed(state, vocabulary, sign) for sign in (LETTER, BRACE))
    closers = [QUOTE] if is_text else CLOSERS
    found = [each for sign in closers for each in _allowed(state, vocabulary, sign)]
    if is_text and tokens[-2:] == 2 * found:
        found = []  # a quote closes nothing here
    yield from ([each] for each in found or _openers(state, vocabulary, tokens, closers))


def _openers(
    state: llguidance.LLMatcher,
    vocabulary: TokenVocabulary,
    tokens: list[int],
    closers: Sequence[bytes],
) -> list[int]:
    """Tokens to go on with where none of `closers` may stand."""
    bits = np.unpackbits(
        np.frombuffer(state.compute_bitmask(), dtype=np.uint8), bitorder="little"
    )  # [vocab]
    signs = [each for each in vocabulary.signs if bits[each]]
    if not signs:
        ranked = vocabulary.shortest
        return [int(each) for each in ranked[bits[ranked] > 0][:MAX_CHOICES]]
    ends = [vocabulary.end_id, *(each for sign in closers for each in vocabulary.ids_of(sign))]
    marks = [each for sign in MARKS for each in vocabulary.ids_of(sign) if each in signs]
    word = {each for sign in WORD for each in vocabulary.ids_of(sign)}
    is_in_word = not word.isdisjoint(tokens[-1:])

    def badness(token_id: int) -> tuple[bool, bool, int]:
        leads_on = any(state.validate_tokens([token_id, each]) == 2 for each in ends)
        # What was not used before comes first, or a repetition would go on for ever.
        return not leads_on, is_in_word and token_id in word, tokens.count(token_id)

    return sorted(dict.fromkeys([*marks, *signs]), key=badness)


def _allowed(state: llguidance.LLMatcher, vocabulary: TokenVocabulary, sign: bytes) -> list[int]:
    """The token of this sign, if it may come next."""
    return [each for each in vocabulary.ids_of(sign) if state.validate_tokens([each]) == 1]
