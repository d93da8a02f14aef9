"""What sentence-transformers' files say, in their older and newer spellings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from libertai_engine.errors import ModelLoadError
from libertai_engine.model.recipe import Recipe, read_recipe
from tests.fake_encoders import add_recipe


def test_a_folder_without_files_gets_the_mean(tmp_path: Path) -> None:
    """And unit vectors, as the llama-like API answers them."""
    assert read_recipe(tmp_path) == Recipe(transformer=tmp_path, pooling=("mean",), normalize=True)


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode": "lasttoken"}, ("lasttoken",)),
        ({"pooling_mode": ["max", "mean"], "pooling_mode_cls_token": True}, ("max", "mean")),
        ({"pooling_mode_mean_tokens": False}, ("mean",)),
    ],
)
def test_both_spellings_of_poolings(
    tmp_path: Path, pooling: dict[str, Any], modes: tuple[str, ...]
) -> None:
    """Flags, or a name; the name counts if there are both, and several keep their order."""
    assert read_recipe(add_recipe(tmp_path, pooling)).pooling == modes


@pytest.mark.parametrize(
    ("prompts", "query", "document"),
    [
        ({}, "", ""),
        ({"query": "q: ", "document": "d: ", "passage": "p: "}, "q: ", "d: "),
        ({"passage": "p: "}, "", "p: "),
        ({"document": "", "corpus": "c: "}, "", "c: "),
        ({"query": None, "document": 3}, "", ""),
    ],
)
def test_prompts_of_queries_and_documents(
    tmp_path: Path, prompts: dict[str, Any], query: str, document: str
) -> None:
    """Documents' have several names."""
    recipe = read_recipe(add_recipe(tmp_path, {"pooling_mode": "mean"}, prompts=prompts))
    assert (recipe.query_prompt, recipe.document_prompt, recipe.prompt) == (query, document, "")


def test_the_rest_of_the_chain(tmp_path: Path) -> None:
    """Projections before the norm, the limit of a text, the prompt of all others."""
    folder = add_recipe(
        tmp_path,
        {"pooling_mode": "mean"},
        dense=8,
        normalize=False,
        prompts={"x": "say: "},
        default_prompt="x",
        max_tokens=77,
    )
    recipe = read_recipe(folder)
    assert recipe.denses == ((folder / "2_Dense").resolve(),)
    assert (recipe.normalize, recipe.max_tokens, recipe.prompt) == (False, 77, "say: ")


def test_a_transformer_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """As the first versions wrote it; its settings lie with it."""
    folder = add_recipe(tmp_path, {"pooling_mode": "mean"})
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "0_Transformer").mkdir()
    settings = {"max_seq_length": 9, "do_lower_case": True}
    inner = folder / "0_Transformer" / "sentence_roberta_config.json"
    inner.write_text(json.dumps(settings))
    recipe = read_recipe(folder)
    assert recipe.transformer == (folder / "0_Transformer").resolve()
    assert (recipe.max_tokens, recipe.lower_case) == (9, True)


def test_what_is_not_done_here_is_refused(tmp_path: Path) -> None:
    """A projection behind the norm would be left out in silence otherwise."""
    folder = add_recipe(tmp_path, {"pooling_mode": "mean"}, dense=8)
    modules = json.loads((folder / "modules.json").read_text())
    modules[2], modules[3] = modules[3], modules[2]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelLoadError, match="asks for `Dense` here"):
        read_recipe(folder)
