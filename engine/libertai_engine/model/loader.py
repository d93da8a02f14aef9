"""From a model's name to a transformers module on its device.

In: `EngineConfig`. Out: a `LoadedModel`, or a `ModelLoadError` that says what is wrong with which
file. Weights come from safetensors or GGUF only; code from a model's folder is never run.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GgufConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from libertai_engine.config import Dtype, EngineConfig
from libertai_engine.errors import EngineError, InvalidRequest, ModelLoadError
from libertai_engine.model.images import Blindness
from libertai_engine.model.parts import has_vision_tower
from libertai_engine.model.probe import check_model
from libertai_engine.model.source import ModelSource, check_files, count_elements, find_source
from libertai_engine.model.vision import Vision
from libertai_engine.model.vision_probe import Blind, check_forward, check_vision

logger = logging.getLogger(__name__)

DEFAULT_CONTEXT = 2048
"""Context of a model whose configuration names none."""

# Heads of these kinds share their body with a language model but do not predict the next token.
_OTHER_HEADS = ("Classification", "QuestionAnswering", "MaskedLM", "MultipleChoice", "RewardModel")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A model that has proved that it runs on slot lanes, and what belongs to it.

    `train_context` counts the positions it was trained for; `eos_ids` holds every id that ends an
    answer (tokenizer's, configuration's and generation configuration's); sizes are in bytes.
    `vision` is None for a model of text alone.
    """

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    config: PretrainedConfig
    name: str
    chat_template: str | None
    eos_ids: frozenset[int]
    device: torch.device
    dtype: torch.dtype
    num_parameters: int
    size_bytes: int
    train_context: int
    vision: Vision | Blindness | None


def load_model(config: EngineConfig, *, progress: bool = True) -> LoadedModel:
    """Load `config.model` and check that it can serve; a progress bar goes to stderr.

    The network is used for a hub id only, and not then with `local_files_only`. Raises
    `ModelLoadError`, or `InvalidRequest` for a device that does not exist in general.
    """
    source = find_source(config.model)
    if source.is_local:
        check_files(source)
    device = _pick_device(config.device)
    dtype = _pick_dtype(config.dtype, device)
    with _as_load_error(source), _transformers_output(progress):
        where = {"local_files_only": source.is_local or config.local_files_only}
        hf_config = _load_config(source, where)
        tokenizer = _load_tokenizer(source, hf_config, where)
        module = _load_module(source, hf_config, dtype, where).to(device)
        has_eyes = has_vision_tower(hf_config)
        vision = _load_vision(source, module, tokenizer, where) if has_eyes else None
        check_model(module)
    return LoadedModel(
        module=module,
        tokenizer=tokenizer,
        config=module.config,
        name=config.alias or source.name,
        chat_template=_chat_template(tokenizer),
        eos_ids=_eos_ids(module, tokenizer),
        device=device,
        dtype=dtype,
        num_parameters=sum(p.numel() for p in module.parameters()),
        size_bytes=sum(p.nbytes for p in module.parameters()),
        train_context=_train_context(module.config),
        vision=vision,
    )


def _pick_device(name: str) -> torch.device:
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


def _pick_dtype(name: Dtype, device: torch.device) -> torch.dtype:
    """`auto` is bf16 on a GPU that has it, else fp32: on a CPU exact and, without AMX, faster."""
    if name == "auto":
        name = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return torch.bfloat16 if name == "bf16" else torch.float32


@contextmanager
def _as_load_error(source: ModelSource) -> Iterator[None]:
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
def _transformers_output(progress: bool) -> Iterator[None]:
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


def _load_config(source: ModelSource, where: dict[str, Any]) -> PretrainedConfig:
    config = AutoConfig.from_pretrained(
        source.place, gguf_file=source.gguf_file, trust_remote_code=False, **where
    )
    _check_architecture(config)
    _check_size(source, config)
    return config


def _check_architecture(config: PretrainedConfig) -> None:
    kind = f"`{config.model_type}`"
    if config.is_encoder_decoder or _auto_class(config) is None:
        raise ModelLoadError(f"model type {kind} is not a causal language model")
    for name in config.architectures or ():
        if name.endswith(_OTHER_HEADS):
            raise ModelLoadError(f"{name} is not a causal language model")


def _auto_class(config: PretrainedConfig) -> Any:
    """transformers' way from a configuration to a class; None if there is no language model."""
    kind = type(config)
    if has_vision_tower(config) and kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM if kind in MODEL_FOR_CAUSAL_LM_MAPPING else None


def _check_size(source: ModelSource, config: PretrainedConfig) -> None:
    """Refuse a configuration far larger than its weights, before memory is taken for it."""
    stored = count_elements(source)
    if stored is None or getattr(config, "quantization_config", None) is not None:
        return
    with torch.device("meta"):
        module = _auto_class(config).from_config(config, trust_remote_code=False)
    described = sum(p.numel() for p in module.parameters())
    if described > 2 * stored:
        raise ModelLoadError(
            f"`{source.name}`: config.json describes {described:,} parameters, "
            f"the weights hold {stored:,}"
        )


def _load_tokenizer(
    source: ModelSource, config: PretrainedConfig, where: dict[str, Any]
) -> PreTrainedTokenizerFast:
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


def _load_module(
    source: ModelSource, config: PretrainedConfig, dtype: torch.dtype, where: dict[str, Any]
) -> PreTrainedModel:
    options = dict(where)
    if source.gguf_file is not None:
        # NOTE: without this, transformers may fetch a compute kernel from the hub.
        options |= {
            "gguf_file": source.gguf_file,
            "quantization_config": GgufConfig(dequantize=True),
        }
    module, report = _auto_class(config).from_pretrained(
        source.place,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **options,
    )
    # NOTE: transformers only warns, and goes on with random numbers.
    if missing := sorted(report["missing_keys"]):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelLoadError(f"the weights of `{source.name}` lack {', '.join(missing[:3])}{more}")
    loaded: PreTrainedModel = module.eval().requires_grad_(False)
    return loaded


def _load_vision(
    source: ModelSource,
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    where: dict[str, Any],
) -> Vision | Blindness:
    """The model's eyes, if they see as slot lanes show; text works without them."""
    try:
        check_forward(module)
        processor = AutoProcessor.from_pretrained(source.place, trust_remote_code=False, **where)
        if tokenizer.chat_template is None:  # older folders keep it with the processor only
            tokenizer.chat_template = getattr(processor, "chat_template", None)
        vision = Vision(module, processor)
        check_vision(module, vision, tokenizer)
    except Blind as error:
        logger.warning("`%s` is served without images: %s", source.name, error)
        return Blindness(str(error))
    except Exception as error:  # NOTE: its text may name folders, so it goes to the log only
        told = " ".join(str(error).split())
        logger.warning("`%s` is served without images: %s", source.name, told)
        return Blindness("its image processor cannot be loaded")
    return vision


def _chat_template(tokenizer: PreTrainedTokenizerFast) -> str | None:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None


def _eos_ids(module: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    found: set[int] = set()
    for owner in (module.generation_config, module.config.get_text_config(), tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or ())
    return frozenset(found)


def _train_context(config: PretrainedConfig) -> int:
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else DEFAULT_CONTEXT
