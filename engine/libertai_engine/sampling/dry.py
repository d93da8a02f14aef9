"""DRY ("don't repeat yourself"): the longer a repetition would get, the less likely it goes on.

In: the tokens of a sequence, with their bytes for those that end a repetition, and logits. Out: the
same logits, lower where a token would continue something said before. Source: Weidmann, "DRY: A
modern repetition penalty" (2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from libertai_engine.sampling.penalties import LARGEST, Ids, Numbers, Spots
from libertai_engine.sampling_params import SamplingParams

Lengths = npt.NDArray[np.int64]
PieceOf = Callable[[int], bytes]
MAX_LENGTH = 1024  # longer repetitions count as this long


class RepetitionWindow:
    """The latest tokens of one sequence, and where its end was said before.

    Of the `size` tokens remembered, `_lengths[i]` is how many up to and with place i are the same
    as the last ones of all: at most `MAX_LENGTH`, none of them outside of the window, and none
    before the latest breaker. The last place itself does not count, it has 0.
    """

    def __init__(
        self, size: int, tokens: Sequence[int], breakers: Sequence[str], piece_of: PieceOf
    ) -> None:
        self._size = size
        self._breakers = [breaker.encode() for breaker in breakers]
        self._piece_of = piece_of
        self._tail = b""  # the end of the text, for breakers of several tokens
        self._tokens: Ids = np.array(tokens[max(0, len(tokens) - size) :], dtype=np.int64)
        self._lengths = _find_lengths(self._tokens, self._count_unbroken())

    def push(self, token: int) -> None:
        """The sequence goes on with `token`."""
        before = np.concatenate((np.zeros(1, np.int64), self._lengths))[:-1]
        grown = np.where(self._tokens == token, np.minimum(before + 1, MAX_LENGTH), 0)
        if self._is_broken_by(token):
            grown = np.zeros_like(grown)
        self._tokens = np.append(self._tokens, token)[-self._size :]
        lengths = np.append(grown, 0)[-self._size :]
        self._lengths = np.minimum(lengths, np.arange(1, len(lengths) + 1))

    def repetitions(self, shortest: int) -> tuple[Ids, Lengths]:
        """Tokens that would go on with a repetition of at least `shortest` tokens.

        Ids, none twice, and the longest such repetition of each. Breakers are not among them.
        """
        is_long = self._lengths[:-1] >= shortest
        ids, places = np.unique(self._tokens[1:][is_long], return_inverse=True)
        longest = np.zeros(len(ids), np.int64)
        np.maximum.at(longest, places, self._lengths[:-1][is_long])
        is_free = np.array([not self._has_breaker(token) for token in ids.tolist()], dtype=bool)
        return ids[is_free], longest[is_free]

    def _count_unbroken(self) -> int:
        """Tokens behind the latest breaker, as far as it matters."""
        count = 0
        for token in self._tokens[-MAX_LENGTH:].tolist():
            count = 0 if self._is_broken_by(token) else count + 1
        return count

    def _is_broken_by(self, token: int) -> bool:
        """Whether a breaker ends in `token`, which follows the tokens asked about before.

        NOTE: by its letters, however they are cut into tokens. llama.cpp looks for the tokens that
        the breaker would be by itself, and misses some.
        """
        piece = self._piece_of(token)
        self._tail += piece
        is_broken = any(
            breaker in self._tail[-(len(piece) + len(breaker) - 1) :]
            for breaker in self._breakers
            if piece
        )
        self._tail = self._tail[-max(map(len, self._breakers), default=1) :]
        return is_broken

    def _has_breaker(self, token: int) -> bool:
        piece = self._piece_of(token)
        return any(breaker in piece for breaker in self._breakers)


def has_repetition_penalty(params: SamplingParams) -> bool:
    """False where it would leave every logit as it is."""
    return "dry" in params.samplers and params.dry_multiplier > 0 and params.dry_window != 0


def penalize_repetitions(
    logits: torch.Tensor, rows: Sequence[tuple[int, RepetitionWindow, SamplingParams]]
) -> None:
    """Lower the logits of what each row would repeat: `rows` holds (row, window, settings).

    By `multiplier * base ^ (length - allowed_length)`, in place.
    """
    for row, window, params in rows:
        ids, lengths = window.repetitions(params.dry_allowed_length)
        spots = Spots(logits, np.full(len(ids), row), ids)
        with np.errstate(over="ignore"):
            growth = np.power(params.dry_base, lengths - params.dry_allowed_length)
            taken: Numbers = np.minimum(params.dry_multiplier * growth, LARGEST)
        spots.write(spots.read() - taken)


def _find_lengths(tokens: Ids, limit: int) -> Lengths:
    """How long the end of `tokens` is repeated up to each place, at most `limit`.

    Read backwards, that is how long each end of a text agrees with the text (the Z values of
    Gusfield, 1997): what agreed before tells what agrees there, so the time is linear.
    """
    text = tokens[::-1].tolist()
    lengths = [0] * len(text)
    first = end = 0  # text[first:end] is known to agree with the beginning
    for place in range(1, len(text)):
        length = max(0, min(lengths[place - first], end - place))
        while place + length < len(text) and text[length] == text[place + length]:
            length += 1
        if place + length > end:
            first, end = place, place + length
        lengths[place] = length
    return np.minimum(np.array(lengths[::-1], dtype=np.int64), limit)
