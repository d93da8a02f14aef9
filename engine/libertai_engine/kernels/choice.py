"""Who multiplies, by kind of weights and number of activation rows.

In: nothing. Out: the number that `model/` asks for.

Measured on a layer of 5632 x 2048 whose weights come from memory, two cores with AVX-512, VNNI and
BF16 (docs/bench/kernels.md has the figures of all kernels); native kernels against the
best of torch's for the same weights, how many times as fast:

| weights | 1 row | 4 rows | 16 rows | 32 rows | 128 rows | 512 rows |
|---|---|---|---|---|---|---|
| bf16, against `linear` | 1.54 | 1.42 | 1.19 | 1.04 | 0.65 | 0.81 |
| int8, against the x86 and onednn engines | 1.12 | 1.06 | 1.11 | 1.09 | 0.94 | 0.81 |

So dense weights are multiplied natively by up to `FEW_ROWS` rows and by torch's `linear` above:
with few rows memory is the limit, and prefetching the next rows decides; with many, oneDNN's
blocking of dense matrices is hard to beat. int8 is always multiplied natively: torch's engines are
ahead at 128 rows and more, but they need a packed copy of the weights of their own, hence twice the
memory. int4 is, too: its table is still to be measured. Apart from each other, torch's kernel for
it took 0.36 ms for one row and 72 ms for 512, while one core did 21 GB/s and 300 GFLOP/s natively,
which is 0.3 and 39 ms on that core alone. fp32 shares the code of bf16; its table is owed as well.
"""

from __future__ import annotations

FEW_ROWS = 16
"""Activation rows up to which the native kernels are ahead for all kinds of weights."""
