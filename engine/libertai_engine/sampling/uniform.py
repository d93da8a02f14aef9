"""Random numbers without state: the n-th number of a seed is a function of both.

In: a seed and a token index. Out: a float64 in [0, 1), the same on every machine and in any batch.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, odd


def uniform(seed: int, index: int, stream: int = 0) -> float:
    """Number `index` of `seed`: the upper 53 bits of a SplitMix64 number.

    The seed is mixed first, otherwise neighbouring seeds would share most of their numbers. Numbers
    of another `stream` are others.
    """
    return (splitmix64(splitmix64(seed, stream), index) >> 11) * 2.0**-53


def splitmix64(start: int, index: int) -> int:
    """Number `index` of the SplitMix64 generator whose state begins at `start`: 64 bits.

    Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (2014). Its n-th number
    is a mix of `start + n * gamma`, so any of them can be reached directly.
    """
    value = (start + (index + 1) * _GAMMA) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
