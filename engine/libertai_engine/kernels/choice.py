"""Who multiplies, by kind of weights and number of activation rows.

In: nothing. Out: the number that `model/` asks for.

Measured on a layer of 5632 x 2048 whose weights come from memory, two cores with AVX-512, VNNI and
BF16 (docs/bench/kernels.md has the figures of all kernels); native kernels against the
best of torch's for the same weights, how many times as fast:

| weights | 1 row | 4 rows | 16 rows | 32 rows | 128 rows | 512 rows |
|---|---|---|---|---|---|---|
| fp32, against `linear` | 1.69 | 4.01 | 2.72 | 2.14 | 1.42 | 1.18 |
| bf16, against `linear` | 1.54 | 1.42 | 1.19 | 1.04 | 0.65 | 0.81 |
| int8, against the x86 and onednn engines | 1.12 | 1.06 | 1.11 | 1.09 | 0.94 | 0.81 |
| int4, against `_weight_int4pack_mm_for_cpu` | 1.50 | 2.34 | 3.23 | 3.12 | 3.47 | |

So dense weights are multiplied natively by up to `FEW_ROWS` rows and by torch's `linear` above:
with few rows memory is the limit, and prefetching the next rows decides; with many, oneDNN's
blocking of bf16 is hard to beat. int8 and int4 are always multiplied natively: for int8 torch's
engines are ahead at 128 rows and more, but they need a packed copy of the weights of their own,
hence twice the memory.
"""

from __future__ import annotations

FEW_ROWS = 16
"""Activation rows up to which the native kernels are ahead for all kinds of weights."""
