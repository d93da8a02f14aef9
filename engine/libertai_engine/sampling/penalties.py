"""What changes logits before any choice is made: the request's biases and repetition penalties.

In: logits `[rows, vocab]` and, per row, ids with what to do to them. Out: the same tensor, changed
in place at those ids only; the cost does not depend on the vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from libertai_engine.sampling_params import SamplingParams

Ids = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]
LARGEST = float(torch.finfo(torch.float32).max)
FEW = 16  # entries that are written sooner one by one than by a call of NumPy


@dataclass(frozen=True, slots=True)
class Bias:
    """What is added to the logits of single ids: no id twice, -inf bans.

    `banned` are the ids if all are banned, such as end tokens to be ignored, and there are few.
    """

    ids: Ids
    values: Numbers
    banned: tuple[int, ...]

    @classmethod
    def of(cls, values: Mapping[int, float]) -> Bias:
        """The bias that adds `values[id]` to the logit of `id`."""
        ids = np.array([*values], dtype=np.int64)
        is_ban = len(values) <= FEW and set(values.values()) == {-np.inf}
        banned = tuple(values) if is_ban else ()
        return cls(ids, np.array([*values.values()], dtype=float), banned)


class PenaltyWindow:
    """The latest tokens of one sequence, counted.

    `size` is the most tokens remembered. The counts are always those of the tokens remembered, all
    positive; `exempt` is never counted.
    """

    def __init__(self, size: int, tokens: Sequence[int], *, exempt: int | None = None) -> None:
        self._exempt = exempt
        self._size = size
        self._tokens: deque[int] = deque()
        self._counts: dict[int, int] = {}
        for token in tokens[max(0, len(tokens) - size) :]:
            self.push(token)

    def push(self, token: int) -> None:
        """Remember `token`, and forget the oldest where that is one too many."""
        self._tokens.append(token)
        if token != self._exempt:
            self._counts[token] = self._counts.get(token, 0) + 1
        if len(self._tokens) > self._size:
            self._forget(self._tokens.popleft())

    def _forget(self, token: int) -> None:
        if token == self._exempt:
            return
        self._counts[token] -= 1
        if not self._counts[token]:
            del self._counts[token]

    def ids(self) -> Ids:
        """The different tokens in the window `[n]`."""
        return np.fromiter(self._counts.keys(), dtype=np.int64, count=len(self._counts))

    def counts(self) -> Numbers:
        """How often each of `ids()` is in the window `[n]`."""
        return np.fromiter(self._counts.values(), dtype=np.float64, count=len(self._counts))


def has_penalties(params: SamplingParams) -> bool:
    """False where penalties would leave every logit as it is."""
    is_neutral = (
        params.repeat_penalty == 1
        and params.frequency_penalty == 0
        and params.presence_penalty == 0
    )
    is_asked = "penalties" in params.samplers and params.penalty_window != 0
    return is_asked and not is_neutral


def add_biases(logits: torch.Tensor, biases: Sequence[tuple[int, Bias]]) -> None:
    """Add each row's bias: `biases` holds (row, bias). Ids outside the vocabulary do nothing."""
    vocab = logits.shape[-1]
    if logits.device.type == "cpu" and all(bias.banned for _, bias in biases):
        _ban(logits.numpy(), biases)
        return
    ids = np.concatenate([bias.ids for _, bias in biases])
    values = np.concatenate([bias.values for _, bias in biases])
    rows = np.repeat([row for row, _ in biases], [len(bias.ids) for _, bias in biases])
    known = (ids >= 0) & (ids < vocab)
    spots = Spots(logits, rows[known], ids[known])
    spots.write(spots.read() + values[known])


def _ban(logits: npt.NDArray[np.float32], biases: Sequence[tuple[int, Bias]]) -> None:
    """The same where all is banned, one by one, in a tenth of the time."""
    for row, bias in biases:
        values = logits[row]  # [vocab]
        for each in bias.banned:
            # NOTE: NaN, which is not even itself, stays for the sampler to find.
            if 0 <= each < len(values) and values[each] == values[each]:
                values[each] = -np.inf


def penalize(
    logits: torch.Tensor, rows: Sequence[tuple[int, PenaltyWindow, SamplingParams]]
) -> None:
    """Make the tokens of each row's window less likely: `rows` holds (row, window, settings).

    As in llama.cpp: a logit is divided by the repeat penalty if positive, else multiplied by it
    (Keskar et al., "CTRL", 2019, with the sign mended); then `count * frequency + presence` is
    taken off.
    """
    ids = [window.ids() for _, window, _ in rows]
    counts = np.concatenate([window.counts() for _, window, _ in rows])
    settings = np.array(
        [
            (row, params.repeat_penalty, params.frequency_penalty, params.presence_penalty)
            for row, _, params in rows
        ]
    )
    # One line of settings for every id: [4, all ids]
    row, repeat, frequency, presence = np.repeat(settings, [len(found) for found in ids], axis=0).T
    spots = Spots(logits, row.astype(np.int64), np.concatenate(ids))
    found = spots.read()
    with np.errstate(over="ignore"):
        scaled = np.where(found <= 0, found * repeat, found / repeat)
        taken = counts * frequency + presence
    # NOTE: what is too large is cut before it is taken off, or infinities would meet as NaN.
    spots.write(np.where(np.isneginf(found), found, _limited(scaled) - _limited(taken)))


def _limited(values: Numbers) -> Numbers:
    return np.minimum(np.maximum(values, -LARGEST), LARGEST)


class Spots:
    """Single entries of a logits tensor, read and written as float64 on the CPU.

    No entry is named twice.
    """

    def __init__(self, logits: torch.Tensor, rows: Ids, ids: Ids) -> None:
        self._logits = logits
        self._rows, self._ids = rows, ids

    def read(self) -> Numbers:
        """The logits `[n]`."""
        if self._is_near:  # NumPy's view of the same memory
            near: Numbers = self._logits.numpy()[self._rows, self._ids].astype(np.float64)
            return near
        far: Numbers = self._logits[self._where].cpu().numpy().astype(np.float64)
        return far

    def write(self, values: Numbers) -> None:
        """Set the logits to `values` `[n]`.

        NOTE: extreme settings must not make an infinite logit of a finite one, so these stop at
        the largest float32; -inf stays (a ban) and NaN stays for the sampler to find.
        """
        new = np.where(values == -np.inf, values, _limited(values)).astype(np.float32)
        if self._is_near:
            self._logits.numpy()[self._rows, self._ids] = new
        else:
            self._logits[self._where] = torch.from_numpy(new).to(self._logits.device)

    @property
    def _is_near(self) -> bool:
        return self._logits.device.type == "cpu"

    @property
    def _where(self) -> tuple[torch.Tensor, torch.Tensor]:
        device = self._logits.device
        return torch.from_numpy(self._rows).to(device), torch.from_numpy(self._ids).to(device)
