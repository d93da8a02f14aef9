"""A grammar at work on one answer: what is forced, and whether the answer can still be completed.

In: the tokens of the answer, and how many more there is room for. Out: tokens that nobody has to
sample.
"""

from __future__ import annotations

from libertai_engine.grammar.compiler import CompiledGrammar


class Guide:
    """A matcher, and a completion of the answer where it has to be completed.

    Invariant: unless it is None, `_completion` leads from where the matcher is to where the answer
    may end, and there is room for all of it.
    """

    def __init__(self, grammar: CompiledGrammar, *, forces: bool, closes: bool) -> None:
        self.matcher = grammar.matcher()
        self._forces = forces
        known = grammar.completion if closes else None
        self._completion = None if known is None else list(known)

    @property
    def is_whole(self) -> bool:
        """True if the answer is known to be one that may end here."""
        return self._completion == []

    def can_close_behind(self, token_ids: list[int], room: int) -> bool:
        """Whether these tokens leave enough of `room` to complete the answer, if it has to be."""
        if self._completion is None or not token_ids:
            return True
        left = room - len(token_ids)
        found = self.matcher.completion_after(token_ids, self._completion, left)
        if found is None:
            return False
        self._completion = found
        return True

    def forced(self, limit: int, room: int) -> list[int]:
        """At most `limit` tokens that must come next, with `room` for so many."""
        token_ids = self.matcher.forced(limit) if self._forces else []
        return token_ids if self.can_close_behind(token_ids, room) else []

    def foreseen(self, limit: int) -> list[int]:
        """At most `limit` tokens that most likely come next: a guess, for somebody to check."""
        return self.matcher.foreseen(limit)

    def take_completion(self) -> list[int]:
        """The tokens that complete the answer; it is whole behind them."""
        token_ids, self._completion = self._completion or [], []
        return token_ids
