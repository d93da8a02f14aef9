"""What an answer will most likely say next, where its grammar leaves it little to say.

In: where the answer is in its grammar, and its latest text. Out: text, guessed: what must follow,
and between it the marks and spaces that stood in such places before. A form is then known up to the
next value, whatever white space its writer prefers.
"""

from __future__ import annotations

import string

import llguidance

from libertai_engine.grammar.vocabulary import TokenVocabulary

MAX_BYTES = 160  # guessed at once: as many tokens as a small step has room for, and some more
MAX_PLACES = 6  # looked at for how it went on there
CONTEXTS = (2, 1)  # bytes before a place that have to be the same
MARKS = frozenset((string.punctuation + string.whitespace).encode())
# Where one of these may stand, the writer has something of its own to say, a word or a number.
WORDS = (b"q", b"Q", b"0")


def foresee(native: llguidance.LLMatcher, vocabulary: TokenVocabulary, said: bytes) -> bytes:
    """The bytes that come next, as far as there is no real choice. Changes nothing.

    `said` is the end of the answer so far.
    """
    state, text = native, bytearray(said)
    while len(text) < len(said) + MAX_BYTES and not state.is_stopped():
        more = state.compute_ff_bytes() or _mark(state, vocabulary, text)
        if not more:
            break
        token_ids = vocabulary.tokenize(more.decode(errors="ignore"))
        state = state.deep_copy() if state is native else state
        if not token_ids or not state.consume_tokens(token_ids):
            break
        text += more
    return bytes(text[len(said) :])


def _mark(state: llguidance.LLMatcher, vocabulary: TokenVocabulary, text: bytearray) -> bytes:
    """One mark that may come next, and came before in such a place; none where words may."""
    if any(_may_stand(state, vocabulary, sign) for sign in WORDS):
        return b""
    refused = set[int]()
    for size in CONTEXTS:
        key, end = bytes(text[-size:]), len(text) - 1
        for _ in range(MAX_PLACES):
            place = text.rfind(key, 0, end) if key else -1
            if place < 0:
                break
            following, end = text[place + size], place + size - 1
            if following not in MARKS or following in refused:
                continue
            if _may_stand(state, vocabulary, bytes([following])):
                return bytes([following])
            refused.add(following)
    return b""


def _may_stand(state: llguidance.LLMatcher, vocabulary: TokenVocabulary, sign: bytes) -> bool:
    return any(state.validate_tokens([each]) == 1 for each in vocabulary.ids_of(sign))
