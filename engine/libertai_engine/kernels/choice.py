"""Who multiplies, by kind of weights and number of activation rows.

In: nothing. Out: the number that `model/` asks for.

Measured on a layer of 5632 x 2048 whose weights come from memory, two cores with AVX-512, VNNI and
BF16 (docs/bench/kernels.md has all figures and more numbers of rows); native kernels against the
best of torch's for the same weights, how many times as fast:

| weights | 1 row | 4 rows | 16 rows | 32 rows | 128 rows | 512 rows |
|---|---|---|---|---|---|---|
| bf16, against `linear` | 1.54 | 1.42 | 1.19 | 1.04 | 0.65 | 0.81 |
| int8, against the x86 and onednn engines | 1.12 | 1.06 | 1.11 | 1.09 | 0.94 | 0.81 |

So dense weights are multiplied natively by up to `FEW_ROWS` rows and by torch's `linear` above:
with few rows memory is the limit, and prefetching the next rows decides; with many, oneDNN's
blocking of dense matrices is hard to beat. int8 and int4 are always multiplied natively: torch's
engines are ahead at 128 rows and more, but they need a packed copy of the weights of their own,
hence twice the memory, and for int4 none of them is as fast.
"""

from __future__ import annotations

FEW_ROWS = 16
"""Activation rows up to which the native kernels are ahead for all kinds of weights."""
