"""A set of allowed tokens, one bit each, applied to logits.

In: llguidance's mask. Out: the same logits with -inf where a bit is not set. The cost follows the
number of 64-bit words that are neither empty nor full: nearly all masks of real grammars allow
almost nothing or almost everything.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

WORD = 64  # bits
FULL = np.uint64(2**WORD - 1)


def apply_bitmask(logits: torch.Tensor, mask: bytes) -> None:
    """Set `logits` `[vocab]` to -inf, in place, where `mask` (bit i: id i) has no bit.

    Ids beyond the mask are banned too.
    """
    words = _words(mask, logits.shape[-1])
    if logits.device.type == "cpu" and logits.is_contiguous() and logits.dtype == torch.float32:
        _apply_on_cpu(logits.numpy(), words)
    else:
        _apply_anywhere(logits, words)


def _words(mask: bytes, vocab: int) -> npt.NDArray[np.uint64]:
    """The mask for `vocab` ids, padded with zeros: `[ceil(vocab / 64)]`."""
    words = np.zeros(-(-vocab // WORD), dtype=np.uint64)
    length = min(len(mask), words.nbytes)
    words.view(np.uint8)[:length] = np.frombuffer(mask, dtype=np.uint8, count=length)
    return words


def _apply_on_cpu(logits: npt.NDArray[np.float32], words: npt.NDArray[np.uint64]) -> None:
    whole = len(logits) // WORD
    lines = logits[: whole * WORD].reshape(whole, WORD)  # a view: [words, 64]
    inner = words[:whole]
    lines[inner == 0] = -np.inf
    mixed = ((inner != 0) & (inner != FULL)).nonzero()[0]
    if len(mixed):
        lines[mixed] = np.where(_bits(inner[mixed]), lines[mixed], -np.inf)
    rest = logits[whole * WORD :]
    if len(rest):
        rest[~_bits(words[whole:])[0, : len(rest)]] = -np.inf


def _bits(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Each word's bits, lowest first: `[words, 64]`."""
    octets = words.view(np.uint8).reshape(len(words), -1)
    return np.unpackbits(octets, axis=-1, bitorder="little").view(np.bool_)


def _apply_anywhere(logits: torch.Tensor, words: npt.NDArray[np.uint64]) -> None:
    octets = torch.from_numpy(words.view(np.uint8)).to(logits.device)
    shifts = torch.arange(8, dtype=torch.uint8, device=logits.device)
    is_allowed = (octets[:, None] >> shifts & 1).flatten()[: logits.shape[-1]].bool()
    logits.masked_fill_(~is_allowed, -torch.inf)
