"""What loading a chat model and loading an embedding model have in common.

In: settings, a `ModelSource`. Out: device and type, a tokenizer, errors that name the model.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from typing import Any

import torch
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from libertai_engine.config import Dtype
from libertai_engine.errors import EngineError, InvalidRequest, ModelLoadError
from libertai_engine.model.source import ModelSource


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InvalidRequest("`device` must be auto, cpu, cuda or cuda:N", field="device")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelLoadError(f"there is no CUDA device `{name}` here")
    return device


def pick_dtype(name: Dtype, device: torch.device) -> torch.dtype:
    """`auto` is bf16 on a GPU that has it, else fp32: on a CPU exact and, without AMX, faster."""
    if name == "auto":
        name = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return torch.bfloat16 if name == "bf16" else torch.float32


@contextmanager
def as_load_error(source: ModelSource) -> Iterator[None]:
    """Whatever transformers raises becomes one `ModelLoadError` with the model's name."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if not source.is_local:
            where = "/".join(part for part in (source.place, source.gguf_file) if part)
            raise ModelLoadError(f"cannot fetch or load `{where}`: {reason}") from error
        hint = " (is the GGUF file complete?)" if source.gguf_file else ""
        raise ModelLoadError(f"cannot load `{source.name}`{hint}: {reason}") from error


@contextmanager
def transformers_output(progress: bool) -> Iterator[None]:
    """Errors only, and no progress bar unless wanted; all settings are put back."""
    verbosity = transformers_logging.get_verbosity()
    had_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    if not progress:
        transformers_logging.disable_progress_bar()
    try:
        # NOTE: the bar of transformers' GGUF reader knows no switch, so its stream is taken away.
        with nullcontext() if progress else redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bar and not progress:
            transformers_logging.enable_progress_bar()


def load_tokenizer(
    source: ModelSource, config: PretrainedConfig, where: dict[str, Any]
) -> PreTrainedTokenizerFast:
    """A fast tokenizer that fits the model's vocabulary. Raises `ModelLoadError`."""
    try:
        tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(
            source.place, gguf_file=source.gguf_file, trust_remote_code=False, **where
        )
    except Exception as error:
        raise ModelLoadError(f"`{source.name}` has no usable tokenizer: {error}") from error
    if not tokenizer.is_fast:
        raise ModelLoadError(f"the tokenizer of `{source.name}` has no fast form")
    vocab_size = config.get_text_config().vocab_size
    # NOTE: a few added tokens without an embedding are common; thousands are someone else's.
    if not 0 < len(tokenizer) <= vocab_size * 1.05:
        raise ModelLoadError(
            f"the tokenizer of `{source.name}` has {len(tokenizer)} tokens, the model {vocab_size}"
        )
    return tokenizer


def check_size(source: ModelSource, num_described: int, num_stored: int | None) -> None:
    """Refuse a configuration far larger than its weights, before memory is taken for it."""
    if num_stored is not None and num_described > 2 * num_stored:
        raise ModelLoadError(
            f"`{source.name}`: config.json describes {num_described:,} parameters, "
            f"the weights hold {num_stored:,}"
        )


def refuse_missing(source: ModelSource, missing: list[str]) -> None:
    """Refuse a checkpoint that lacks weights: transformers only warns, and takes random numbers."""
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelLoadError(f"the weights of `{source.name}` lack {', '.join(missing[:3])}{more}")
