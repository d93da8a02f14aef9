"""Random numbers without state: the n-th number of a seed is a function of both.

In: a seed and a token index. Out: a float64 in [0, 1), the same on every machine and in any batch.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, odd


def uniform(seed: int, index: int) -> float:
    """Number `index` of the SplitMix64 stream of `seed`, of its upper 53 bits.

    SplitMix64 is Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (2014);
    the n-th number is the mixed value of start + n * gamma, so it can be reached directly. The
    seed is mixed first, otherwise neighbouring seeds would share most of their numbers.
    """
    start = _mix(seed + _GAMMA)
    return (_mix(start + (index + 1) * _GAMMA) >> 11) * 2.0**-53


def _mix(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
