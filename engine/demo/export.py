"""The finished model on disk. In: weights, tokenizer, recipe, history. Out: the folder we ship."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from recipe import Recipe
from training import History
from vocabulary import write_tokenizer

HERE = Path(__file__).parent


def write_model(folder: Path, model: LlamaForCausalLM, pieces: bytes, recipe: Recipe) -> Tokenizer:
    """Write config, weights in bf16, tokenizer, chat template and generation settings."""
    tokenizer = write_tokenizer(folder, pieces, recipe.positions)
    tensors = {
        name: value.detach().to("cpu", torch.bfloat16).contiguous()
        for name, value in model.named_parameters()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.dtype = "bfloat16"
    model.config.architectures = ["LlamaForCausalLM"]
    config = model.config.to_dict()
    _write_json(folder / "config.json", {k: v for k, v in config.items() if v is not None})
    shutil.copyfile(HERE / "chat_template.jinja", folder / "chat_template.jinja")
    ids = {name: tokenizer.token_to_id(name) for name in ("<s>", "</s>", "<|im_end|>", "<pad>")}
    generation = {
        "bos_token_id": ids["<s>"],
        "eos_token_id": [ids["</s>"], ids["<|im_end|>"]],
        "pad_token_id": ids["<pad>"],
        # What suits it: it mostly says again what it was told.
        "do_sample": True,
        "temperature": 0.3,
        "top_p": 0.9,
        "repetition_penalty": 1.0,
    }
    _write_json(folder / "generation_config.json", generation)
    return tokenizer


def _write_json(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_card(folder: Path, recipe: Recipe, history: History, texts: Mapping[str, str]) -> None:
    """Write MODEL_CARD.md: model_card.txt with the figures of this run and some texts about it."""
    weights = folder / "model.safetensors"
    figures = {
        **texts,
        "parameters": f"{_parameters(weights) / 1e6:.1f}",
        "positions": f"{recipe.positions:,}",
        "recipe": "\n".join(f"{name} = {value}" for name, value in asdict(recipe).items()),
        "tokens": f"{history.tokens:,}",
        "steps": f"{history.steps:,}",
        "documents": f"{history.round * recipe.documents_per_round:,}",
        "minutes": f"{history.seconds / 60:.0f}",
        "train_loss": f"{history.training[-1][1]:.3f}",
        "held_out_loss": f"{history.validation[-1][1]:.3f}",
        "megabytes": f"{weights.stat().st_size / 1e6:.1f}",
        "corpora": "\n".join(
            f"| checksum of the corpus, from token {at:,} on | {sum_} |"
            for at, sum_ in history.corpora
        ),
        "torch": torch.__version__,
    }
    text = (HERE / "model_card.txt").read_text(encoding="utf-8")
    for name, value in figures.items():
        text = text.replace(f"@{name}@", value)
    (folder / "MODEL_CARD.md").write_text(text, encoding="utf-8")


def _parameters(weights: Path) -> int:
    with safe_open(weights, framework="pt") as opened:
        return sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118


def draw_losses(path: Path, history: History) -> None:
    """Draw the training and the held-out loss over the tokens seen, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for values, label in ((history.training, "training"), (history.validation, "held out")):
        axes.plot([at / 1e6 for at, _ in values], [loss for _, loss in values], label=label)
    axes.set(xlabel="tokens seen, millions", ylabel="loss, nats a token", title="Demo model")
    axes.set_yscale("log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
