"""Token probabilities, in one shape for both generations of servers.

In: the `completion_probabilities` of an answer. Out: `TokenProbs`, one for each token.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenProb:
    """A token and the natural logarithm of its probability (None: not told; -inf: impossible).

    `piece` is the token as bytes, which need not be whole UTF-8; `id` is None on servers of 2023.
    """

    token: str
    piece: bytes
    logprob: float | None = None
    id: int | None = None

    @property
    def prob(self) -> float | None:
        """The probability, 0 to 1."""
        return None if self.logprob is None else math.exp(min(self.logprob, 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenProbs:
    """A generated token (`chosen`) and the likeliest ones at its place (`top`), best first.

    Servers of 2023 and our engine tell probabilities after all samplers; today's llama-server
    before them, unless `post_sampling_probs` is asked for.
    """

    chosen: TokenProb
    top: tuple[TokenProb, ...]


def read_probs(reply: Mapping[str, Any]) -> tuple[TokenProbs, ...]:
    """All entries of an answer or event; malformed ones are left out."""
    entries = reply.get("completion_probabilities")
    if not isinstance(entries, list):
        return ()
    return tuple(_read_entry(entry) for entry in entries if isinstance(entry, Mapping))


def _read_entry(entry: Mapping[str, Any]) -> TokenProbs:
    lists = (entry[name] for name in _TOP_NAMES if isinstance(entry.get(name), list))
    listed: list[Any] = next(lists, [])
    top = tuple(_read_token(each) for each in listed if isinstance(each, Mapping))
    chosen = _read_token(entry)
    if chosen.logprob is None:
        # The server of 2023 names the chosen token and lists the top ones, which may include it.
        same = (each for each in top if each.token == chosen.token)
        chosen = next(same, chosen)
    return TokenProbs(chosen=chosen, top=top)


_TOP_NAMES = ("top_logprobs", "top_probs", "probs")
_LONE_BYTE = re.compile(r"byte: \\x([0-9a-fA-F]{2})")


def _read_token(found: Mapping[str, Any]) -> TokenProb:
    named = (found.get(name) for name in ("token", "tok_str", "content"))
    token = next((each for each in named if isinstance(each, str)), "")
    number = found.get("id")
    return TokenProb(
        token=token,
        piece=_piece(found.get("bytes"), token),
        logprob=_logprob(found),
        id=number if isinstance(number, int) else None,
    )


def _piece(listed: Any, token: str) -> bytes:
    if is_bytes(listed):
        return bytes(listed)
    lone = _LONE_BYTE.fullmatch(token)
    return bytes([int(lone[1], 16)]) if lone else token.encode(errors="replace")


def is_bytes(value: Any) -> bool:
    """True for a list of numbers from 0 to 255, which is how servers write bytes."""
    return isinstance(value, list) and all(isinstance(n, int) and 0 <= n < 256 for n in value)


def _logprob(found: Mapping[str, Any]) -> float | None:
    logprob, prob = finite(found.get("logprob")), finite(found.get("prob"))
    if logprob is not None:
        return logprob
    if prob is None:
        return None
    return math.log(prob) if prob > 0 else -math.inf


def finite(value: Any) -> float | None:
    """A JSON number as a float; None for what is no number, or none that a float can hold."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
