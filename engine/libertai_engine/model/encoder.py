"""Token ids to vectors: a transformers body, a pooling, and what a folder puts behind it.

In: an `EmbeddingConfig`, or a chat model that is loaded already; then rows of token ids. Out: an
`Encoder`, whose vectors do not depend on what else is in a batch. Weights come from safetensors or
GGUF only; code from a model's folder is never run.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from libertai_engine.config import EmbeddingConfig
from libertai_engine.errors import ModelLoadError
from libertai_engine.model.loader import LoadedModel
from libertai_engine.model.loading import (
    as_load_error,
    check_size,
    load_tokenizer,
    pick_device,
    pick_dtype,
    refuse_missing,
    transformers_output,
)
from libertai_engine.model.parts import language_model
from libertai_engine.model.pooling import pool
from libertai_engine.model.recipe import Recipe, read_recipe
from libertai_engine.model.source import (
    ModelSource,
    check_files,
    count_elements,
    fetch_folder,
    find_source,
    read_json,
)

DEFAULT_LIMIT = 512
"""Tokens of a text where neither configuration nor tokenizer names a limit."""
NO_LIMIT = 1 << 24  # tokenizers without a limit name a number far beyond this

_POOLINGS = {"mean": "mean", "cls": "cls", "last": "lasttoken", "max": "max"}
_ACTIVATIONS = {
    "Identity": torch.nn.Identity,
    "Tanh": torch.nn.Tanh,
    "ReLU": torch.nn.ReLU,
    "GELU": torch.nn.GELU,
    "SiLU": torch.nn.SiLU,
}
# A head over the first token that BERT's family has and nobody here asks for.
_UNUSED = ("pooler.",)
_PROBE = ((5, 6, 7, 8, 9, 10), (11, 12))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedEncoder:
    """An embedding model and what belongs to it.

    `max_tokens` counts the tokens of one text, the model's own marks included; `num_dimensions` is
    the length of a vector; ids are below `vocab_size`; sizes are in bytes. `is_shared` if a chat
    model has the same weights.
    """

    encoder: Encoder
    tokenizer: PreTrainedTokenizerFast
    recipe: Recipe
    name: str
    device: torch.device
    dtype: torch.dtype
    num_parameters: int
    size_bytes: int
    max_tokens: int
    vocab_size: int
    num_dimensions: int
    is_shared: bool


class Encoder:
    """A body with a pooling. Safe from one thread at a time.

    Invariant: rows are padded on the right, and what is padded changes no result.
    """

    def __init__(
        self, module: PreTrainedModel, poolings: Sequence[str], denses: torch.nn.Module, pad_id: int
    ) -> None:
        self._module = module
        self._poolings = tuple(poolings)
        self._denses = denses
        self._pad_id = pad_id

    @torch.inference_mode()
    def encode(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Vectors `[row, dimension]` in float32 on the CPU, not normalised."""
        device = self._module.device
        lengths = torch.tensor([len(row) for row in rows])
        longest = int(lengths.max())
        ids = torch.full((len(rows), longest), self._pad_id)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        lengths = lengths.to(device)
        mask = None
        if int(lengths.min()) < longest:  # without a mask, attention takes a faster way
            mask = (torch.arange(longest, device=device)[None, :] < lengths[:, None]).long()
        output = self._module(input_ids=ids.to(device), attention_mask=mask)
        vectors = pool(output.last_hidden_state, lengths, self._poolings)
        projected: torch.Tensor = self._denses(vectors)
        return projected.float().cpu()


def load_encoder(config: EmbeddingConfig, *, progress: bool = True) -> LoadedEncoder:
    """Load `config.model` and check that it can serve; a progress bar goes to stderr.

    The network is used for a hub id only, and not then with `local_files_only`. Raises
    `ModelLoadError`, or `InvalidRequest` for a device that does not exist in general.
    """
    named = find_source(config.model)
    with as_load_error(named):
        folder = fetch_folder(named, local_files_only=config.local_files_only)
    recipe = read_recipe(Path(folder.place))
    source = replace(folder, place=str(recipe.transformer))
    check_files(source)
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    where = {"local_files_only": True, "trust_remote_code": False}
    with as_load_error(source), transformers_output(progress):
        hf_config = AutoConfig.from_pretrained(source.place, gguf_file=source.gguf_file, **where)
        tokenizer = load_tokenizer(source, hf_config, {"local_files_only": True})
        module = _load_body(source, hf_config, dtype).to(device)
    return _finish(config, recipe, source.name, module, tokenizer, is_shared=False)


def share_encoder(model: LoadedModel, config: EmbeddingConfig) -> LoadedEncoder:
    """The body of a chat model as an embedding model: the same weights, no second copy of them."""
    body = language_model(model.module)
    body = getattr(body, body.base_model_prefix, body)
    shared = {id(each): each for each in (*body.parameters(), *body.buffers())}
    twin = copy.deepcopy(body, shared)  # all of it but the numbers
    twin.set_attn_implementation("sdpa")
    recipe = Recipe(transformer=Path())
    return _finish(config, recipe, model.name, twin, model.tokenizer, is_shared=True)


def _load_body(
    source: ModelSource, config: PretrainedConfig, dtype: torch.dtype
) -> PreTrainedModel:
    named = (config.architectures or [""])[0]
    is_half = config.is_encoder_decoder or named.endswith("EncoderModel")  # T5's, for one
    kind: Any = AutoModelForTextEncoding if is_half else AutoModel
    with torch.device("meta"):
        described = kind.from_config(config, trust_remote_code=False)
    stored = None if source.gguf_file else count_elements(source)
    check_size(source, sum(p.numel() for p in described.parameters()), stored)
    module, report = kind.from_pretrained(
        source.place,
        gguf_file=source.gguf_file,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    missing = [name for name in report["missing_keys"] if not name.startswith(_UNUSED)]
    refuse_missing(source, sorted(missing))
    loaded: PreTrainedModel = module.eval().requires_grad_(False)
    return loaded


def _finish(
    config: EmbeddingConfig,
    recipe: Recipe,
    name: str,
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    is_shared: bool,
) -> LoadedEncoder:
    if config.pooling != "auto":
        recipe = replace(recipe, pooling=(_POOLINGS[config.pooling],))
    text_config = module.config.get_text_config()
    text_config.use_cache = False
    denses = torch.nn.Sequential(*(_load_dense(folder) for folder in recipe.denses))
    known = (tokenizer.pad_token_id, text_config.pad_token_id)
    pad_id = next((each for each in known if each is not None), 0)
    encoder = Encoder(module, recipe.pooling, denses.to(module.device), pad_id)
    return LoadedEncoder(
        encoder=encoder,
        tokenizer=tokenizer,
        recipe=recipe,
        name=config.alias or name,
        device=module.device,
        dtype=module.dtype,
        num_parameters=sum(p.numel() for p in module.parameters()),
        size_bytes=sum(p.nbytes for p in module.parameters()),
        max_tokens=_max_tokens(config, recipe, module, tokenizer),
        # NOTE: some tokenizers have added tokens that the model has no embedding for.
        vocab_size=min(len(tokenizer), module.get_input_embeddings().num_embeddings),
        num_dimensions=_check(encoder, name),
        is_shared=is_shared,
    )


def _max_tokens(
    config: EmbeddingConfig,
    recipe: Recipe,
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
) -> int:
    """The lowest of all limits that are named."""
    limits = [config.context_size, recipe.max_tokens, tokenizer.model_max_length]
    limits.append(getattr(module.config.get_text_config(), "max_position_embeddings", None))
    for name, table in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, torch.nn.Embedding):
            # NOTE: where positions begin behind the padding's, that many rows of them are no
            # position; a text that is too long would fail in the middle of a batch.
            first = 0 if table.padding_idx is None else table.padding_idx + 1
            limits.append(table.num_embeddings - first)
    named = [int(limit) for limit in limits if limit and 0 < limit < NO_LIMIT]
    return min(named, default=DEFAULT_LIMIT)


def _load_dense(folder: Path) -> torch.nn.Module:
    """A projection behind the pooling. Raises `ModelLoadError`."""
    config = read_json(folder / "config.json")
    wanted = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    is_plain = config.get("module_input_name", "sentence_embedding") == "sentence_embedding"
    if wanted not in _ACTIVATIONS or not is_plain or config.get("use_residual"):
        raise ModelLoadError(f"{folder / 'config.json'} asks for a layer that is not supported")
    try:
        weights = load_file(folder / "model.safetensors")
        weight, bias = weights["linear.weight"].float(), weights.get("linear.bias")
    except (OSError, KeyError, ValueError) as error:
        raise ModelLoadError(f"{folder} holds no usable model.safetensors: {error}") from error
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias.float()}))
    return torch.nn.Sequential(linear, _ACTIVATIONS[wanted]()).requires_grad_(False)


def _check(encoder: Encoder, name: str) -> int:
    """The number of dimensions, found by running the model: alone and in a batch, it says the same.

    Raises `ModelLoadError` for models that cannot run, or look at what is only padding.
    """
    try:
        together = encoder.encode(_PROBE)
        alone = torch.cat([encoder.encode([row]) for row in _PROBE])
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ModelLoadError(f"`{name}` cannot embed: {reason}") from error
    if not torch.isfinite(alone).all():
        raise ModelLoadError(f"`{name}` answers with numbers that are not finite: broken weights?")
    apart = float((together - alone).norm() / alone.norm().clamp_min(1e-12))
    if apart > 0.02:
        raise ModelLoadError(
            f"`{name}` cannot embed: it does not keep the texts of one batch apart "
            f"(relative difference {apart:.2g})"
        )
    return alone.shape[1]
