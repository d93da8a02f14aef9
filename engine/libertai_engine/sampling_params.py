"""How the next token is chosen: the llama.cpp sampler settings, checked once.

In: numbers from `wire` or a caller. Out: a frozen `SamplingParams` that the sampler reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from libertai_engine.errors import InvalidRequest

MAX_PROBS = 100
INT32_MAX = 2**31 - 1
MAX_BREAKERS = 64
MAX_BREAKER_CHARS = 40

# All samplers in llama.cpp's order. Those that change single logits come before all that choose.
EDITING = ("penalties", "dry")
SAMPLERS = (
    *EDITING,
    "top_n_sigma",
    "top_k",
    "tfs_z",
    "typ_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampler settings with the defaults of llama.cpp's server of December 2023.

    `temperature` ≤ 0 is greedy. `penalty_window` is the number of latest tokens (prompt and
    generated) that penalties look at: 0 off, -1 the whole context. `logit_bias` holds
    `(token id, bias)` pairs, `-inf` bans. `num_probs` > 0 asks for that many top probabilities
    per token, as the sampler sees them; `num_logprobs` asks for the model's own log-probabilities,
    of the chosen token and of that many top ones (None: of none). `seed` None draws a fresh one.

    What later servers added is off unless asked for. `samplers` names those that run, in their
    order; a filter may run twice, and those that change logits come first, as in `SAMPLERS`. Every
    filter leaves `min_keep` tokens. With `dynatemp_range` the temperature moves by that much up and
    down with the entropy. `top_n_sigma` > 0 keeps what is within so many standard deviations of the
    best logit. With `xtc_probability` the likeliest tokens are left out, down to one that has
    `xtc_threshold`. With `dry_multiplier` a token that would make a repetition longer than
    `dry_allowed_length` is penalised, `dry_base` times more with each token; `dry_window` tokens
    are searched (0 off, -1 the whole context), and no repetition goes beyond one of `dry_breakers`.
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
    samplers: tuple[str, ...] = SAMPLERS
    min_keep: int = 0
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_window: int = 64
    dry_breakers: tuple[str, ...] = ("\n", ":", '"', "*")

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
        self._check_samplers()
        self._check_breakers()

    def _check_samplers(self) -> None:
        unknown = [name for name in self.samplers if name not in SAMPLERS]
        if unknown:
            message = f"`samplers` has an unknown name; known are {', '.join(SAMPLERS)}"
            raise InvalidRequest(message, field="samplers")
        if len(self.samplers) > 2 * len(SAMPLERS):
            message = f"`samplers` must be at most {2 * len(SAMPLERS)} names"
            raise InvalidRequest(message, field="samplers")
        num_editing = sum(name in EDITING for name in self.samplers)
        in_order = tuple(name for name in EDITING if name in self.samplers)
        if self.samplers[:num_editing] != in_order:
            message = f"`samplers` must begin with {' and then '.join(EDITING)}, if used at all"
            raise InvalidRequest(message, field="samplers")

    def _check_breakers(self) -> None:
        is_long = any(not 0 < len(word) <= MAX_BREAKER_CHARS for word in self.dry_breakers)
        if is_long or len(self.dry_breakers) > MAX_BREAKERS:
            message = (
                f"`dry_breakers` must be at most {MAX_BREAKERS} strings of "
                f"1 to {MAX_BREAKER_CHARS} characters"
            )
            raise InvalidRequest(message, field="dry_breakers")

    @property
    def is_greedy(self) -> bool:
        """True if the most likely token is always taken. Mirostat always has a temperature."""
        has_temperature = self.mirostat > 0 or "temperature" in self.samplers
        return self.temperature <= 0 and has_temperature


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
    "top_n_sigma",
    "dynatemp_range",
    "dynatemp_exponent",
    "xtc_probability",
    "xtc_threshold",
    "dry_multiplier",
    "dry_base",
)
_RANGES: dict[str, tuple[float, float]] = {
    "top_k": (-INT32_MAX - 1, INT32_MAX),
    "penalty_window": (-1, INT32_MAX),
    "mirostat": (0, 2),
    "num_probs": (0, MAX_PROBS),
    "min_keep": (0, INT32_MAX),
    "dynatemp_exponent": (0, INT32_MAX),
    "xtc_probability": (0, 1),
    "xtc_threshold": (0, 1),
    "dry_multiplier": (0, INT32_MAX),
    "dry_base": (1, INT32_MAX),
    "dry_allowed_length": (0, INT32_MAX),
    "dry_window": (-1, INT32_MAX),
}
