"""Embedding models: their vectors are sentence-transformers' own, for every family and recipe."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from libertai_engine.config import EmbeddingConfig, EngineConfig
from libertai_engine.embeddings import Embedder, load_embedder
from libertai_engine.errors import InvalidRequest, ModelLoadError
from libertai_engine.model.encoder import load_encoder, share_encoder
from libertai_engine.model.loader import load_model
from libertai_engine.model.pooling import normalize
from tests.fake_encoders import ENCODERS, MAX_TOKENS, WORDS, add_recipe, save_encoder

TEXTS = [
    "the cat sat on the mat.",
    "a dog",
    "king",
    " ".join(WORDS * 3),
    "the old river runs under a small tree, and the queen sleeps not.",
    "",
    "Red bread is NEW water",
]
LONG = " ".join(f"the {word} was not in the fire" for word in WORDS * 3)

# Name -> family and what the files say; every pooling, projection and prompt appears.
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "mean": ("bert", {"pooling": {"pooling_mode_mean_tokens": True}}),
    "cls": ("roberta", {"pooling": {"pooling_mode_cls_token": True}}),
    "max": ("distilbert", {"pooling": {"pooling_mode_max_tokens": True}, "normalize": False}),
    "sqrt": ("mpnet", {"pooling": {"pooling_mode_mean_sqrt_len_tokens": True}, "normalize": False}),
    "weighted": ("llama", {"pooling": {"pooling_mode_weightedmean_tokens": True}}),
    "last": ("llama", {"pooling": {"pooling_mode": "lasttoken"}}),
    "two": ("electra", {"pooling": {"pooling_mode": ["cls", "mean"]}}),
    "dense": ("xlm-roberta", {"pooling": {"pooling_mode": "mean"}, "dense": 12}),
    "prompts": (
        "bert",
        {
            "pooling": {"pooling_mode": "mean"},
            "prompts": {"query": "query: ", "document": "passage: ", "old": "old "},
            "default_prompt": "old",
        },
    ),
    "bare": ("bert", {}),
    "t5": ("t5", {"pooling": {"pooling_mode": "mean"}}),
}

THEIRS = """
import json, sys
from sentence_transformers import SentenceTransformer
folders, texts = json.load(sys.stdin)
answers = {}
for name, folder in folders.items():
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    for kind in ("plain", "query", "document"):
        encode = model.encode if kind == "plain" else getattr(model, "encode_" + kind)
        answers[name + " " + kind] = encode(texts, show_progress_bar=False).tolist()
json.dump(answers, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> dict[str, str]:
    made = {"minilm": minilm}
    for name, (family, recipe) in RECIPES.items():
        folder = save_encoder(tmp_path_factory.mktemp(name), family)
        made[name] = str(add_recipe(folder, **recipe) if recipe else folder)
    return made


@pytest.fixture(scope="module")
def theirs(folders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What sentence-transformers answers, in a process of its own: importing it takes a while."""
    path = tmp_path_factory.mktemp("theirs") / "answers.json"
    asked = json.dumps([folders, [*TEXTS, LONG]])
    command = [sys.executable, "-c", THEIRS, str(path)]
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": ""}
    subprocess.run(command, input=asked, text=True, check=True, env=environment)
    answers: dict[str, Any] = json.loads(path.read_text())
    return answers


def embed(embedder: Embedder, texts: list[str], prompt: str = "") -> torch.Tensor:
    """Our vectors, too long texts cut as theirs are."""
    rows = embedder.tokenizer.encode([prompt + text for text in texts], truncate=True)
    return normalize(embedder.embed(rows), 2 if embedder.model.recipe.normalize else -1)


@pytest.mark.parametrize("name", ["minilm", *RECIPES])
def test_vectors_are_those_of_sentence_transformers(
    name: str, folders: dict[str, str], theirs: dict[str, Any]
) -> None:
    """Short, empty, upper case and far too long, with the model's own prompts."""
    with load_embedder(EmbeddingConfig(model=folders[name]), progress=False) as embedder:
        recipe = embedder.model.recipe
        prompts = {
            "plain": recipe.prompt,
            "query": recipe.query_prompt,
            "document": recipe.document_prompt,
        }
        for kind, prompt in prompts.items():
            ours = embed(embedder, [*TEXTS, LONG], prompt)
            expected = torch.tensor(theirs[f"{name} {kind}"])
            if name == "bare":  # without files we answer unit vectors, as the llama-like API does
                expected = normalize(expected, 2)
            assert ours.shape == expected.shape
            assert (ours - expected).abs().max() < 2e-6 * max(1.0, float(expected.abs().max()))
            # Vectors that are all alike would be equal, too.
            assert (ours[0] - ours[1]).norm() > 1e-2


def test_limits_are_the_lowest_that_is_named(folders: dict[str, str], minilm: str) -> None:
    """By the recipe, the configuration, the table of positions, or the user."""
    limits = {
        name: load_encoder(EmbeddingConfig(model=folders[name]), progress=False).max_tokens
        for name in ("minilm", "mean", "bare")
    }
    assert limits == {"minilm": 256, "mean": MAX_TOKENS, "bare": 40}
    asked = EmbeddingConfig(model=minilm, context_size=100)
    assert load_encoder(asked, progress=False).max_tokens == 100


@pytest.mark.parametrize(("family", "limit"), [("roberta", 39), ("xlm-roberta", 39), ("mpnet", 38)])
def test_positions_that_begin_later_end_earlier(tmp_path: Path, family: str, limit: int) -> None:
    """The longest text that is let in can be embedded."""
    model = str(save_encoder(tmp_path, family))
    with load_embedder(EmbeddingConfig(model=model), progress=False) as embedder:
        assert embedder.max_tokens == limit
        vectors = embed(embedder, [LONG, "a dog"])
        assert torch.isfinite(vectors).all()


@pytest.mark.parametrize("family", ENCODERS)
def test_a_batch_changes_nothing(tmp_path: Path, family: str) -> None:
    """Alone or beside texts of any length, in any order: the same within 1e-6."""
    model = str(save_encoder(tmp_path, family))
    with load_embedder(EmbeddingConfig(model=model, batch_tokens=64), progress=False) as embedder:
        texts = [*TEXTS, LONG]
        together = embed(embedder, texts)
        backwards = embed(embedder, texts[::-1]).flip(0)
        alone = torch.cat([embed(embedder, [text]) for text in texts])
        assert (together - alone).abs().max() < 1e-6
        assert (together - backwards).abs().max() < 1e-6


def test_pooling_can_be_chosen(folders: dict[str, str]) -> None:
    """What the user says counts more than the folder; the first token is not the last."""
    vectors = {}
    for pooling in ("mean", "cls", "last", "max"):
        config = EmbeddingConfig(model=folders["last"], pooling=pooling)
        with load_embedder(config, progress=False) as embedder:
            vectors[pooling] = embed(embedder, TEXTS[:1])
    with load_embedder(EmbeddingConfig(model=folders["last"]), progress=False) as embedder:
        assert torch.equal(embed(embedder, TEXTS[:1]), vectors["last"])
    differences = [(vectors[a] - vectors[b]).norm() for a, b in (("mean", "last"), ("cls", "max"))]
    assert min(differences) > 1e-2


@pytest.fixture(scope="module")
def shared(tiny_model: Path) -> Iterator[tuple[Embedder, Any]]:
    """A chat model and an embedder with its weights."""
    model = load_model(EngineConfig(model=str(tiny_model), dtype="fp32"), progress=False)
    config = EmbeddingConfig(model="self")
    with load_embedder(config, chat_model=model) as embedder:
        yield embedder, model


def test_a_chat_model_embeds_with_its_own_weights(
    shared: tuple[Embedder, Any], tiny_model: Path
) -> None:
    """No second copy of them, the same vectors as if it were loaded anew, and slots as before."""
    embedder, model = shared
    assert embedder.model.is_shared
    ours = {each.data_ptr() for each in embedder.model.encoder._module.parameters()}
    assert ours <= {each.data_ptr() for each in model.module.parameters()}
    assert model.module.config._attn_implementation == "slot_lanes"
    config = EmbeddingConfig(model=str(tiny_model), dtype="fp32")
    with load_embedder(config, progress=False) as anew:
        difference = embed(anew, TEXTS[:3]) - embed(embedder, TEXTS[:3])
    assert difference.abs().max() < 1e-6


def test_mean_of_a_causal_model_is_the_mean_of_its_states(
    shared: tuple[Embedder, Any],
) -> None:
    """Against transformers itself, called by hand."""
    embedder, model = shared
    (row,) = embedder.tokenizer.encode(["the cat sat"], truncate=False)
    hidden = model.module.config.hidden_size
    twin = share_encoder(model, EmbeddingConfig(model="self"))
    states = twin.encoder._module(torch.tensor([row])).last_hidden_state
    assert states.shape == (1, len(row), hidden)
    assert (states[0].mean(0) - embedder.embed([row])[0]).abs().max() < 1e-5


def broken(folder: Path, name: str, value: Any) -> str:
    save_encoder(folder)
    add_recipe(folder, {"pooling_mode": "mean"})
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return str(folder)


MODULE = "sentence_transformers.models."


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("modules.json", "{", "modules.json is not readable JSON"),
        ("modules.json", {}, "must hold a JSON array"),
        ("modules.json", [], "no transformer with a pooling"),
        ("modules.json", [{"type": MODULE + "CLIPModel", "path": ""}], "asks for `CLIPModel`"),
        ("modules.json", [{"type": MODULE + "Transformer", "path": "../x"}], "outside"),
        ("modules.json", [{"type": MODULE + "Transformer", "path": ""}], "no transformer with a"),
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "no pooling is called `median`"),
        ("config.json", "[]", "JSON"),
        ("tokenizer.json", "{", "no usable tokenizer"),
        ("model.safetensors", "x", "corrupt or cut off"),
    ],
)
def test_broken_folders_are_refused_by_name(
    tmp_path: Path, name: str, value: Any, said: str
) -> None:
    """Each says which file asks for what."""
    config = EmbeddingConfig(model=broken(tmp_path, name, value))
    with pytest.raises(ModelLoadError, match=said.replace("[", r"\[")):
        load_encoder(config, progress=False)


def test_a_prompt_that_is_left_out_is_refused(tmp_path: Path) -> None:
    """It would need another pooling for each kind of text."""
    save_encoder(tmp_path)
    pooling = {"pooling_mode": "mean", "include_prompt": False}
    add_recipe(tmp_path, pooling, prompts={"query": "query: "})
    with pytest.raises(ModelLoadError, match="leaves the prompt out"):
        load_encoder(EmbeddingConfig(model=str(tmp_path)), progress=False)


def test_weights_that_are_not_all_there_are_refused(tmp_path: Path) -> None:
    """transformers would go on with random numbers."""
    from safetensors.torch import load_file, save_file

    save_encoder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in weights if "query.weight" in name)
    save_file({n: w for n, w in weights.items() if n != lost}, tmp_path / "model.safetensors")
    with pytest.raises(ModelLoadError, match="lack"):
        load_encoder(EmbeddingConfig(model=str(tmp_path)), progress=False)


def test_wrong_settings_are_named() -> None:
    """Before anything is loaded."""
    for wrong in ({"pooling": "median"}, {"batch_tokens": -1}, {"max_queue": 0}, {"dtype": "int4"}):
        with pytest.raises(InvalidRequest, match=next(iter(wrong))):
            EmbeddingConfig(model="x", **wrong)  # type: ignore[arg-type]
