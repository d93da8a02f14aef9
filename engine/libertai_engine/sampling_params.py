"""How the next token is chosen: the llama.cpp sampler settings, checked once.

In: numbers from `wire` or a caller. Out: a frozen `SamplingParams` that the sampler reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from libertai_engine.errors import InvalidRequest

MAX_PROBS = 100
INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampler settings with the defaults of llama.cpp's server of December 2023.

    `temperature` ≤ 0 is greedy. `penalty_window` is the number of latest tokens (prompt and
    generated) that penalties look at: 0 off, -1 the whole context. `logit_bias` holds
    `(token id, bias)` pairs, `-inf` bans. `num_probs` > 0 asks for that many top probabilities
    per token, as the sampler sees them; `num_logprobs` asks for the model's own log-probabilities,
    of the chosen token and of that many top ones (None: of none). `seed` None draws a fresh one.
    Raises `InvalidRequest` naming the field.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    tfs_z: float = 1.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.1
    penalty_window: int = 64
    penalize_newline: bool = True
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int | None = None
    ignore_eos: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()
    num_probs: int = 0
    num_logprobs: int | None = None

    def __post_init__(self) -> None:
        for name in _FINITE:
            if not math.isfinite(getattr(self, name)):
                raise InvalidRequest(f"`{name}` must be a finite number", field=name)
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise InvalidRequest(f"`{name}` must be between {low} and {high}", field=name)
        if self.repeat_penalty <= 0:
            raise InvalidRequest("`repeat_penalty` must be positive", field="repeat_penalty")
        if not 0 <= (self.num_logprobs or 0) <= MAX_PROBS:
            message = f"`num_logprobs` must be between 0 and {MAX_PROBS}"
            raise InvalidRequest(message, field="num_logprobs")
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise InvalidRequest("`seed` must be -1 or between 0 and 4294967295", field="seed")

    @property
    def is_greedy(self) -> bool:
        """True if the most likely token is always taken."""
        return self.temperature <= 0


_FINITE = (
    "temperature",
    "top_p",
    "min_p",
    "tfs_z",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "mirostat_tau",
    "mirostat_eta",
)
_RANGES: dict[str, tuple[int, int]] = {
    "top_k": (-INT32_MAX - 1, INT32_MAX),
    "penalty_window": (-1, INT32_MAX),
    "mirostat": (0, 2),
    "num_probs": (0, MAX_PROBS),
}
