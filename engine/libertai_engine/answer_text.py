"""The text of one answer: what may be shown of it, and which tokens made that.

In: the tokens of an answer, one by one. Out: text that is whole UTF-8 and that no stop word can be
hidden in, with the tokens behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from libertai_engine.sampling.sampler import SampledToken
from libertai_engine.text.detokenizer import Detokenizer
from libertai_engine.text.stop import StopMatcher, StopResult
from libertai_engine.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Held:
    """A token whose text, characters [start, end) of the answer, has not been sent yet."""

    token: SampledToken
    start: int
    end: int


class AnswerText:
    """Tokens in, safe text out.

    Invariant: the text of each token that was pushed has either been handed out or is held here,
    and so has the token.
    """

    def __init__(self, tokenizer: Tokenizer, stop_words: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._stop_matcher = StopMatcher(stop_words)
        self._held: deque[_Held] = deque()
        self._num_decoded = 0  # characters detokenized
        self._num_sent = 0  # characters handed out

    @property
    def is_inside_character(self) -> bool:
        """True if the last token left a character unfinished."""
        return self._detokenizer.pending

    def push(self, token: SampledToken) -> StopResult:
        """What becomes safe to show with one token more, and the stop word that it completes."""
        text = self._detokenizer.push(token.token_id)
        start = self._num_decoded
        self._num_decoded += len(text)
        # NOTE: a token that leaves a character unfinished is sent with that character, so its text
        # reaches one character further than what is decoded.
        unfinished = int(self._detokenizer.pending)
        self._held.append(_Held(token, start, self._num_decoded + unfinished))
        return self._stop_matcher.push(text)

    def flush(self) -> StopResult:
        """Everything held back, up to a stop word that only the last broken bytes complete."""
        found = self._stop_matcher.push(self._detokenizer.flush())
        if found.word is not None:
            return found
        return StopResult(found.text + self._stop_matcher.flush())

    def send(self, text: str, *, is_last: bool) -> tuple[SampledToken, ...]:
        """Note that `text` is handed out; returns the tokens whose text is out with it.

        Those are whole, or, at the end, also cut short by a stop word.
        """
        self._num_sent += len(text)
        sent = []
        while self._held:
            held = self._held[0]
            if not (held.end <= self._num_sent or (is_last and held.start < self._num_sent)):
                break
            sent.append(self._held.popleft().token)
        return tuple(sent)
