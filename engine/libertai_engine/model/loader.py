"""From a model's name to a transformers module on its device.

In: `EngineConfig`. Out: a `LoadedModel`, or a `ModelLoadError` that says what is wrong with which
file. Weights come from safetensors or GGUF only; code from a model's folder is never run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
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
    GgufConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from libertai_engine.config import EngineConfig
from libertai_engine.errors import InvalidRequest, ModelLoadError
from libertai_engine.kernels.library import Library, choose
from libertai_engine.model.images import Blindness
from libertai_engine.model.large_pages import move_to_large_pages
from libertai_engine.model.loading import (
    as_load_error,
    check_size,
    load_tokenizer,
    pick_device,
    pick_dtype,
    refuse_missing,
    transformers_output,
)
from libertai_engine.model.parts import has_vision_tower
from libertai_engine.model.probe import check_model
from libertai_engine.model.quality import text_ids
from libertai_engine.model.quantization import Quantization, count_bytes, count_parameters
from libertai_engine.model.quantized_file import Entry, entry_of, pick_precision
from libertai_engine.model.quantized_file import load as load_quantized
from libertai_engine.model.reduction import reduce, take, tell
from libertai_engine.model.source import (
    ModelSource,
    check_files,
    count_elements,
    fetch_folder,
    find_source,
)
from libertai_engine.model.vision import Vision
from libertai_engine.model.vision_probe import Blind, check_forward, check_vision
from libertai_engine.sampling_params import SamplingParams

logger = logging.getLogger(__name__)

DEFAULT_CONTEXT = 2048
"""Context of a model whose configuration names none."""

# A setting of `SamplingParams`, and what a generation configuration calls it.
_SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
}

# Heads of these kinds share their body with a language model but do not predict the next token.
_OTHER_HEADS = ("Classification", "QuestionAnswering", "MaskedLM", "MultipleChoice", "RewardModel")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A model that has proved that it runs on slot lanes, and what belongs to it.

    `train_context` counts the positions it was trained for; `eos_ids` holds every id that ends an
    answer (tokenizer's, configuration's and generation configuration's); sizes are in bytes.
    `vision` is None for a model of text alone. `sampling` holds the settings of `SamplingParams`
    that its makers suggest in the generation configuration.
    """

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    config: PretrainedConfig
    name: str
    chat_template: str | None
    eos_ids: frozenset[int]
    device: torch.device
    dtype: torch.dtype
    quantization: Quantization | None
    num_parameters: int
    size_bytes: int
    train_context: int
    vision: Vision | Blindness | None
    sampling: Mapping[str, float]

    @property
    def dtype_name(self) -> str:
        """`dtype` in one word, such as float32."""
        return str(self.dtype).removeprefix("torch.")


def load_model(
    config: EngineConfig, *, progress: bool = True, is_for_saving: bool = False
) -> LoadedModel:
    """Load `config.model` and check that it can serve; a progress bar goes to stderr.

    The network is used for a hub id only, and not then with `local_files_only`. A quantized model
    that `is_for_saving` keeps the order of its weights, even if it is slow in it. Raises
    `ModelLoadError`, or `InvalidRequest` for a device that does not exist in general.
    """
    source = find_source(config.model)
    if source.is_local:
        check_files(source)
    device = pick_device(config.device)
    with as_load_error(source), transformers_output(progress):
        where = {"local_files_only": source.is_local or config.local_files_only}
        hf_config = _load_config(source, where)
        entry = entry_of(source, hf_config)
        precision = pick_precision(source, config.dtype, hf_config, entry)
        dtype = torch.bfloat16 if precision else pick_dtype(config.dtype, device)
        tokenizer = load_tokenizer(source, hf_config, where)
        if entry is None:
            module = _load_module(source, hf_config, dtype, where).to(device)
        else:
            module = _load_quantized(source, hf_config, entry, config).to(device)
        has_eyes = has_vision_tower(module.config)
        vision = _load_vision(source, module, tokenizer, where) if has_eyes else None
        if entry is not None:
            library = _library(config, device)
            quantization = take(module, entry, library, keeps_order=is_for_saving)
        elif precision is not None:
            text = text_ids(tokenizer, _train_context(module.config))
            quantization = reduce(
                module,
                precision,
                _library(config, device),
                text if config.measures_quality else (),
                keeps_order=is_for_saving,
                progress=progress,
            )
        else:
            quantization = None
            move_to_large_pages(module)
        check_model(module)
    if quantization is not None:
        tell(quantization)
    return LoadedModel(
        name=config.alias or source.name,
        device=device,
        dtype=dtype,
        quantization=quantization,
        vision=vision,
        **_facts(module, tokenizer),
    )


def _facts(module: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """What a loaded model says of itself, as fields of `LoadedModel`."""
    return {
        "module": module,
        "tokenizer": tokenizer,
        "config": module.config,
        "chat_template": _chat_template(tokenizer),
        "eos_ids": _eos_ids(module, tokenizer),
        "num_parameters": count_parameters(module),
        "size_bytes": count_bytes(module),
        "train_context": _train_context(module.config),
        "sampling": _sampling(module),
    }


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
    stored = count_elements(source)
    if stored is None or getattr(config, "quantization_config", None) is not None:
        return
    with torch.device("meta"):
        module = _auto_class(config).from_config(config, trust_remote_code=False)
    check_size(source, sum(p.numel() for p in module.parameters()), stored)


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
    refuse_missing(source, sorted(report["missing_keys"]))
    loaded: PreTrainedModel = module.eval().requires_grad_(False)
    return loaded


def _load_quantized(
    source: ModelSource, hf_config: PretrainedConfig, entry: Entry, config: EngineConfig
) -> PreTrainedModel:
    folder = fetch_folder(source, local_files_only=config.local_files_only)
    return load_quantized(folder, hf_config, _auto_class(hf_config), entry)


def _library(config: EngineConfig, device: torch.device) -> Library | None:
    """Who multiplies quantized weights, if not torch."""
    chosen = choose(config.kernels) if device.type == "cpu" else None
    return chosen if isinstance(chosen, Library) else None


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


def _sampling(module: PreTrainedModel) -> dict[str, float]:
    """What the makers suggest; a setting that cannot be is left out."""
    suggested = module.generation_config
    if suggested is None or suggested.do_sample is False:
        return {}
    named = suggested.to_diff_dict()
    given = {ours: named[theirs] for ours, theirs in _SAMPLING.items() if theirs in named}
    return {name: value for name, value in given.items() if _is_setting(name, value)}


def _is_setting(name: str, value: object) -> bool:
    try:
        SamplingParams(**{name: value})  # type: ignore[arg-type]
    except (InvalidRequest, TypeError):
        return False
    return not isinstance(value, bool)


def _train_context(config: PretrainedConfig) -> int:
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else DEFAULT_CONTEXT
