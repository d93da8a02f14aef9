"""`libertai-engine info`: what a model is.

In: a model. Out: its figures as a table on stdout.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libertai_engine.cli import arguments
from libertai_engine.startup import import_large

if TYPE_CHECKING:
    from libertai_engine.config import Kernels
    from libertai_engine.model.loader import LoadedModel

PROBE_TOKENS = 16


def add_arguments(parser: ArgumentParser) -> None:
    """The flags of `info`."""
    arguments.add_model(parser)
    arguments.add_loading(parser)


def run(args: Namespace) -> int:
    """Load the model, print the table; 0. Raises `EngineError`."""
    config = arguments.loading_config(args, arguments.model_of(args))

    import_large("libertai_engine.model.loader")
    from libertai_engine.model.loader import load_model
    from libertai_engine.processors import settle

    settle(config.threads, config.cpus)
    rows = describe(load_model(config, progress=sys.stderr.isatty()), config.kernels)
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
    return 0


def describe(model: LoadedModel, kernels: Kernels = "auto") -> dict[str, Any]:
    """Name to value, in the order to print. Evaluates one token, to see what the cache takes."""
    from libertai_engine.model.runner import ModelRunner
    from libertai_engine.text.tokenizer import Tokenizer

    runner = ModelRunner(
        model.module, num_slots=1, context_size=PROBE_TOKENS, device=model.device, kernels=kernels
    )
    tokenizer = Tokenizer(model.tokenizer, eos_ids=model.eos_ids)
    special = {"BOS": tokenizer.bos_token, "EOS": tokenizer.eos_token}
    return {
        "model": model.name,
        "architecture": type(model.module).__name__,
        "parameters": f"{model.num_parameters:,}",
        "weights": f"{model.size_bytes / 2**20:,.1f} MiB",
        **describe_quantization(model),
        "device": model.device,
        **describe_kernels(model, kernels),
        "context": f"{model.train_context:,} tokens",
        "vocabulary": f"{tokenizer.vocab_size:,} tokens",
        "special tokens": ", ".join(f"{name} {text!r}" for name, text in special.items() if text),
        "end of answer": ", ".join(map(str, sorted(tokenizer.eos_ids))),
        "chat template": "yes" if tokenizer.chat_template else "none (ChatML is used)",
        "KV cache": f"{runner.cache_nbytes // PROBE_TOKENS:,} bytes a token, {model.dtype_name}",
        "small steps": f"transformers ({runner.why_not_lean})" if runner.why_not_lean else "native",
    }


def describe_kernels(model: LoadedModel, kernels: Kernels) -> dict[str, Any]:
    """Who multiplies: native code, and for which instructions, or torch, and why."""
    from libertai_engine.kernels.library import Library, choose

    if model.device.type != "cpu":
        return {}
    found = choose(kernels)
    if isinstance(found, Library):
        return {
            "kernels": f"native, for {found.instructions}",
            "compiled code": _place(found.path),
        }
    return {"kernels": f"torch's ({found.reason})"}


def _place(library: Path) -> str:
    """Where a library lies, to be moved or removed."""
    return str(library) if library.exists() else "in memory: there is no cache folder to keep it in"


def describe_quantization(model: LoadedModel) -> dict[str, Any]:
    """The number format of the weights, and for a quantized model what became of it."""
    told = model.quantization
    if told is None:
        return {"dtype": model.dtype_name}
    return {
        "dtype": f"{told.precision}, {model.dtype_name} between the layers",
        "quantized": f"{told.num_matrices} matrices, {told.sizes}",
        "quality": told.quality or "not measured",
    }
