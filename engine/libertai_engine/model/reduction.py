"""Quantization of a model that was just loaded, and proof of what it cost.

In: a module in bf16, a text in its tokens. Out: the same module with quantized layers that are
ready to run, and a `Quantization`; a line in the log, a warning if the quality is out of bounds.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from transformers import PreTrainedModel

from libertai_engine.config import Precision
from libertai_engine.kernels.library import Library
from libertai_engine.model.memory import give_memory_back
from libertai_engine.model.probe import check_model
from libertai_engine.model.quality import BOUNDS, Quality, compare, read
from libertai_engine.model.quantization import (
    Quantization,
    count_bytes,
    count_kept_bytes,
    matrices,
    quantize,
    settle,
)
from libertai_engine.model.quantized_file import Entry

logger = logging.getLogger(__name__)

READING_SECONDS = 5.0
"""Time to read the text before; afterwards as many tokens are read."""


def reduce(
    module: PreTrainedModel,
    precision: Precision,
    library: Library | None,
    text: Sequence[int],
    *,
    keeps_order: bool = False,
    progress: bool,
) -> Quantization:
    """Quantize `module` in its place. `text` is read before and after, unless it is too short.

    Nothing is in memory twice but the matrix at work. With `keeps_order` the weights can still be
    saved. Raises `ModelLoadError` for a model that cannot run here, or with weights that are not
    finite.
    """
    check_model(module)
    before = read(module, text, seconds=READING_SECONDS) if len(text) > 1 else None
    bytes_before = count_bytes(module)
    quantize(module, precision, progress=progress)
    settle(module, library, keeps_order=keeps_order)
    quality = compare(before, module, text) if before else None
    give_memory_back()
    return describe(module, precision, quality, bytes_before=bytes_before)


def describe(
    module: PreTrainedModel, precision: Precision, quality: Quality | None, *, bytes_before: int
) -> Quantization:
    """What a quantized module is."""
    return Quantization(
        precision=precision,
        num_matrices=len(matrices(module)),
        bytes_before=bytes_before,
        bytes_after=count_bytes(module),
        bytes_kept=count_kept_bytes(module),
        quality=quality,
    )


def take(
    module: PreTrainedModel, entry: Entry, library: Library | None, *, keeps_order: bool = False
) -> Quantization:
    """Get a module ready that was quantized when it was loaded."""
    settle(module, library, keeps_order=keeps_order)
    give_memory_back()
    quantized = sum(each.rows * each.cols for each in matrices(module))
    before = count_kept_bytes(module) + 2 * quantized
    return describe(module, entry.precision, entry.quality, bytes_before=before)


def tell(quantization: Quantization) -> None:
    """The log's line."""
    said = f"{quantization.precision}: {quantization.sizes}"
    if quantization.quality is not None:
        said += f"; {quantization.quality}"
    if quantization.is_within_bounds:
        logger.info("%s", said)
    else:
        logger.warning("%s: a rise above %.0f %%", said, 100 * BOUNDS[quantization.precision])
