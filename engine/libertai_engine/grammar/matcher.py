"""Where one answer is in its grammar, and what may come next.

In: the tokens of an answer, one after the other. Out: masks over the vocabulary, verdicts on single
tokens, and text that must follow whatever anybody samples.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import llguidance
import torch

from libertai_engine.errors import InvalidRequest
from libertai_engine.grammar.bitmask import apply_bitmask
from libertai_engine.grammar.closing import MAX_SKIPPED, find_completion, still_completes
from libertai_engine.grammar.foresight import foresee
from libertai_engine.grammar.vocabulary import TokenVocabulary

T = TypeVar("T")
STUCK = "NoExtensionBias"  # llguidance's word for an empty mask
MAX_REASON = 200  # characters of a reason that a client is told
RECENT = 200  # tokens of the answer that tell how it writes what it need not think about


class GrammarMatcher:
    """The state of one sequence in a grammar. Used by one thread at a time.

    `forms` are equivalent matchers in their first state, the fast one first.

    Invariant: between calls the native matcher has consumed exactly `_tokens`. One that fails is
    not believed: the next form takes over, with the same tokens. Raises `InvalidRequest` naming the
    field when there is no form left.
    """

    # NOTE: llguidance raises nothing. A matcher that hit a limit answers with a mask that allows
    # only the end: an answer cut short in silence. So `is_error` is asked after every call.

    def __init__(
        self, forms: Iterator[llguidance.LLMatcher], vocabulary: TokenVocabulary, field: str
    ) -> None:
        self._forms = forms
        self._vocabulary = vocabulary
        self._field = field
        self._tokens: list[int] = []
        self._can_force = True
        self._can_foresee = True
        self._native = next(forms)

    @property
    def is_complete(self) -> bool:
        """True if the answer may end here."""
        return self._ask(lambda native: native.is_accepting())

    @property
    def is_finished(self) -> bool:
        """True if the answer is complete and nothing at all can follow."""
        return self._ask(lambda native: native.is_stopped())

    def mask(self, logits: torch.Tensor) -> None:
        """Set `logits` `[vocab]` to -inf, in place, for each id that may not come next."""
        apply_bitmask(logits, self._ask(lambda native: native.compute_bitmask()))

    def allows(self, token_id: int) -> bool:
        """Whether `mask` would leave this id, which is much cheaper to say."""
        if token_id in self._vocabulary.end_ids and self.is_complete:
            return True
        if token_id >= self._vocabulary.size:
            return False
        return self._ask(lambda native: native.validate_tokens([token_id])) == 1

    def accept(self, token_id: int) -> None:
        """The answer goes on with a token that is allowed."""
        self._tokens.append(token_id)
        if not self._native.consume_token(token_id):
            self._take_over()

    def forced(self, limit: int) -> list[int]:
        """At most `limit` tokens that spell what must follow, as the tokenizer would write it.

        Whatever the end of that text may form one token with is left out, to be sampled.
        """
        if limit <= 0 or not self._can_force or self.is_finished:
            return []
        # NOTE: the tokens of what must follow are told only once its bytes have been asked for.
        token_ids = self._native.compute_ff_tokens() if self._native.compute_ff_bytes() else []
        if self._native.is_error():
            self._can_force = False
            self._take_over()
            return []
        num_valid = self._ask(lambda native: native.validate_tokens(token_ids))
        return token_ids[: min(num_valid, limit)]

    def foreseen(self, limit: int) -> list[int]:
        """At most `limit` tokens that come next unless the answer surprises. Only a guess.

        Unlike what is forced it goes on where the end may form one token with what follows, and
        over white space and marks that are written as they were before. Raises nothing: a native
        matcher that fails over it is replaced when it is asked for something that matters.
        """
        native = self._native
        if limit <= 0 or not self._can_foresee or native.is_error():
            return []
        text = foresee(native, self._vocabulary, self._vocabulary.spell(self._tokens[-RECENT:]))
        # NOTE: what is forced stays so, or else a guess would change the answer's tokens.
        self._can_foresee = not native.is_error()
        return self._vocabulary.tokenize(text.decode(errors="ignore"))[:limit]

    def completion(self, limit: int) -> list[int] | None:
        """At most `limit` tokens behind which the answer may end, if some are found."""
        return self._ask(lambda native: find_completion(native, self._vocabulary, limit))

    def completion_after(
        self, token_ids: Sequence[int], known: Sequence[int], limit: int
    ) -> list[int] | None:
        """The same for where `token_ids` lead to; `known` is a completion from here.

        That often goes on to be one, perhaps without its beginning: a letter more in a text does
        not change how the text is closed.
        """
        start = max(0, len(known) - limit)
        for skipped in range(start, min(len(known), start + MAX_SKIPPED) + 1):
            rest = [*known[skipped:]]
            if self._completes([*token_ids, *rest]):
                return rest
        return self._ask(lambda native: self._search_behind(native, token_ids, limit))

    def _completes(self, token_ids: Sequence[int]) -> bool:
        return self._ask(lambda native: still_completes(native, self._vocabulary, token_ids))

    def _search_behind(
        self, native: llguidance.LLMatcher, token_ids: Sequence[int], limit: int
    ) -> list[int] | None:
        state = native.deep_copy()
        if not state.consume_tokens([*token_ids]):
            return None
        return find_completion(state, self._vocabulary, limit)

    def _ask(self, question: Callable[[llguidance.LLMatcher], T]) -> T:
        answer = question(self._native)
        while self._native.is_error():
            self._take_over()
            answer = question(self._native)
        return answer

    def _take_over(self) -> None:
        """Go on with the next form that the answer so far leads through."""
        reason = self._native.get_error()
        for native in self._forms:
            if not native.is_error() and native.consume_tokens(self._tokens):
                self._native = native
                return
        raise InvalidRequest(
            f"`{self._field}` cannot be followed any further: {short(reason)}", field=self._field
        )


def short(reason: str) -> str:
    """What llguidance says, without its place in our own texts and without quotes of them."""
    if reason.startswith(STUCK):
        return "no token of this model is possible here"
    line, _, rest = reason.strip().partition("\n")
    line = re.sub(r"^at \d+\(\d+\): |failed to compile JSON schema: ", "", line)
    found = re.search(r"^error: (.*)", rest, re.MULTILINE)
    if line.endswith(":") and found:  # of a pattern, behind a picture of it
        line = f"{line} {found[1]}"
    return line[:MAX_REASON]
