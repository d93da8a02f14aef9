"""`libertai-engine quantize`: write a model with weights of 8 or 4 bits.

In: a model. Out: a folder that loads like any other model, faster and with no flag.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from libertai_engine.cli import arguments
from libertai_engine.config import PRECISIONS, EngineConfig
from libertai_engine.startup import import_large


def add_arguments(parser: ArgumentParser) -> None:
    """The flags of `quantize`."""
    parser.add_argument("model", metavar="MODEL", help=arguments.MODEL_HELP)
    parser.add_argument(
        "--dtype", choices=PRECISIONS, required=True, help="bits that the weights are to have"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="where to write; new, or empty"
    )
    parser.add_argument("--offline", action="store_true", help="never look for models on the net")
    arguments.add_quality(parser)


def run(args: Namespace) -> int:
    """Load, quantize and write the model, and say what became of it; 0. Raises `EngineError`."""
    config = arguments.checked(
        args,
        EngineConfig,
        model=args.model,
        dtype=args.dtype,
        device="cpu",
        local_files_only=args.offline,
        measures_quality=args.measures_quality,
    )

    import_large("libertai_engine.model.loader")
    from libertai_engine.model import quantized_folder
    from libertai_engine.model.loader import load_model

    quantized_folder.check_target(args.out)
    model = load_model(config, progress=sys.stderr.isatty(), is_for_saving=True)
    size = quantized_folder.save(model, args.out)
    print(f"{args.out}: {size / 2**20:,.1f} MiB")
    if model.quantization is not None:
        print(model.quantization.sizes)
        print(model.quantization.quality or "quality: not measured")
    return 0
